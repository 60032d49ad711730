"""One file an architecture; the file's name is its name in the catalogue.

    build(shape, classes, *, <arguments with literal defaults>) -> (body, head)

shape is (height, width, channels) of the images. `body` maps normalised images (n, c, h, w) to penultimate features
(n, d), `head` maps those to logits (n, classes). The keyword-only parameters are the schema of the learner's
`arguments`. A file may define `prepare(body, images)`, which sets the weights that depend on the (normalised, labelled)
training images before a training from scratch. Two files serve whole libraries, "torchvision:<name>" and "timm:<name>";
their `check(model)` raises an AllroundError for a name that the library does not know.
"""
