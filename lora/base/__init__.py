"""The record of a family of base models, and what all families share: devices, checked components, modulation."""
