"""Fills the feature cache with the toy encoders, in a process of its own: ``filling.py MANIFEST FOLDER [SECONDS]``.

Prints what was done. SECONDS are how long the reading of a clip takes; every shard then holds one clip.
"""

import json
import sys
import time
from pathlib import Path

from toys import TOY_SPEC

from lavcap_core.builder import build_recipe, build_use
from lavcap_core.manifest import read_manifest
from lavcap_core.run import features, shards
from lavcap_core.run.datasets import ManifestDataset
from lavcap_core.spec import read_text

MANIFEST, FOLDER, *SLOW = sys.argv[1:]


class Data(ManifestDataset):
    def read(self, *args):
        time.sleep(float(SLOW[0]) if SLOW else 0)
        return super().read(*args)


if SLOW:
    shards._CLIPS = features._BATCH = 1
spec = read_text(TOY_SPEC, overrides=[f"train.cache_folder={FOLDER}", "backend.device=cpu"])
recipe, backend = build_recipe(spec), build_use(spec.pipeline.backend)
backend.launch()
data = Data(read_manifest(Path(MANIFEST)))
cached, report = features.prepare_reported(data, features.Features(recipe, backend, spec), workers=1)
if backend.index == 0:
    samples = [
        cached.read(index, recipe, (0,)) for index in range(len(data.names)) if data.names[index] not in report.failed
    ]
    print(json.dumps({"computed": dict(report.computed), "failed": report.failed, "read": len(samples)}))
