"""RunPod: a serverless worker that generates images or trains, and a pod that trains and stops."""
