import mediapipe
import numpy as np
from common import images, model, save
from mediapipe.tasks.python import BaseOptions, vision

options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model))
scores = []
with vision.ImageClassifier.create_from_options(options) as classifier:
    for image in images:
        shown = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
        found = classifier.classify(shown).classifications[0].categories
        scores.append([c.score for c in sorted(found, key=lambda c: c.index)])
save(np.array(scores))
