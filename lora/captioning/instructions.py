"""What a captioner is asked, by what is trained: a caption should say what changes between images, as the LoRA learns
the rest."""

FORM = (
    "Answer with the description alone, in one line of plain sentences and at most 80 words. Do not start with words"
    " such as 'The image shows'. Do not guess names, and do not mention what is absent."
)
EVERYTHING = (
    "Describe this image: what is in it and what happens, the place, the background, the light, the viewpoint and the"
    f" kind of picture. {FORM}"
)
SUBJECT = (
    "Describe this image, but not the looks of its main subject. Name the main subject only by its class, for example"
    " 'a man', 'a dog', 'a bag' or 'a creature'. Do not describe what always belongs to it: face, hair, body, breed,"
    " shape, colors, material or markings. Describe everything else: what it does, its pose and expression, clothes and"
    " accessories, other people and things, the place, the background, the light, the viewpoint and the kind of"
    f" picture. {FORM}"
)
STYLE = (
    "Describe what this image depicts, but not how it is made. Name the people, animals, things and actions, the place"
    " and the background. Do not mention the style, the medium, the technique, the artist, the colors as a whole, the"
    f" mood or the quality. {FORM}"
)
# By lora_type. The public trainer asks for a description of everything, whatever is trained.
INSTRUCTIONS = {"subject": SUBJECT, "style": STYLE, "general": EVERYTHING, "replicate": EVERYTHING}
