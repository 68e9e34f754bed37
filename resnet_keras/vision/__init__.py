"""The backbone at work: detection, segmentation and key points on scenes of digits.

`scenes` makes the scenes, `recipe` has the columns, `training` trains a `Task` into a run folder;
each task is a module with a recipe and what is particular to it. keras-cv and pycocotools are
imported where they are used: `pip install 'resnet-keras[vision]'`.
"""
