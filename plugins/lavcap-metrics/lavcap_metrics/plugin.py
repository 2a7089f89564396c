"""What lavcap-metrics offers: metrics of captions. Imports no torch, and no metric."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lavcap_core.component import Component, Config, LocalPath

__all__ = [
    "FenseConfig",
    "JavaConfig",
    "MeteorConfig",
    "SentenceConfig",
    "SpiceConfig",
    "SpiderFlConfig",
    "TokenisedConfig",
    "bleu",
    "cider_d",
    "diversity",
    "fense",
    "meteor",
    "rouge_l",
    "spice",
    "spider",
    "spider_fl",
]

_MEMORY = r"^[1-9][0-9]*[MG]$"


class JavaConfig(Config):
    """What all metrics with a Java process share."""

    timeout: float = Field(
        default=120.0, gt=0, description="Seconds without a sign of life after which a Java process is ended."
    )


class TokenisedConfig(JavaConfig):
    """What all metrics that compare words share."""

    tokeniser: Literal["ptb", "none"] = Field(
        default="ptb",
        description="ptb: Stanford's PTBTokenizer, lower case, without punctuation (needs Java); none: words are what "
        "blanks separate.",
    )


class MeteorConfig(TokenisedConfig):
    """METEOR 1.5."""

    memory: str = Field(default="2G", pattern=_MEMORY, description="Most memory of its Java process.")


class SpiceConfig(TokenisedConfig):
    """SPICE 1.0."""

    timeout: float = Field(
        default=1800.0, gt=0, description="Seconds without a sign of life after which a Java process is ended."
    )
    memory: str = Field(default="8G", pattern=_MEMORY, description="Most memory of its Java process.")
    jars: LocalPath | None = Field(
        default=None, description="Folder with the jars of Stanford CoreNLP 3.6.0; None: where install-spice puts them."
    )
    cache: bool = Field(default=True, description="Keep parsed sentences in the user's cache, for the next time.")


class SentenceConfig(Config):
    """What finds errors of fluency."""

    errors: LocalPath | None = Field(
        default=None,
        description="Folder of a classifier of errors of fluency (transformers); its last class is any error.",
    )
    threshold: float = Field(default=0.9, ge=0, le=1, description="Captions are in error above this probability.")
    penalty: float = Field(default=0.9, ge=0, le=1, description="The part of its score that a caption in error loses.")
    batch_size: int = Field(default=32, ge=1, le=4096, description="Sentences that go through a model together.")
    device: str = Field(default="cpu", description="Where the models run, in torch's words.")


class FenseConfig(SentenceConfig):
    """FENSE."""

    model: LocalPath | None = Field(
        default=None,
        description="Folder of a sentence model: an encoder of transformers, whose tokens' mean is compared.",
    )


class SpiderFlConfig(SpiceConfig, SentenceConfig):
    """SPIDEr-FL."""


bleu = Component(
    kind="metric",
    name="bleu",
    config=TokenisedConfig,
    factory="lavcap_metrics.words:build_bleu",
    summary="BLEU-1 to BLEU-4 of the corpus, and of each clip.",
    source="Papineni et al. 2002, through pycocoevalcap",
)

rouge_l = Component(
    kind="metric",
    name="rouge_l",
    config=TokenisedConfig,
    factory="lavcap_metrics.words:build_rouge_l",
    summary="ROUGE-L: F-score of the longest common subsequence.",
    source="Lin 2004, through pycocoevalcap",
)

meteor = Component(
    kind="metric",
    name="meteor",
    config=MeteorConfig,
    factory="lavcap_metrics.meteor:build",
    summary="METEOR 1.5: alignment by words, stems, synonyms and paraphrases. Needs Java.",
    source="Denkowski and Lavie 2014, through pycocoevalcap",
)

cider_d = Component(
    kind="metric",
    name="cider_d",
    config=TokenisedConfig,
    factory="lavcap_metrics.words:build_cider_d",
    summary="CIDEr-D: consensus of n-grams, weighted by how rare they are among the references.",
    source="Vedantam et al. 2015, through pycocoevalcap",
)

spice = Component(
    kind="metric",
    name="spice",
    config=SpiceConfig,
    factory="lavcap_metrics.spice:build",
    summary="SPICE 1.0: F-score of scene graphs. Needs Java, and jars that `lavcap metrics install-spice` brings.",
    source="Anderson et al. 2016, through pycocoevalcap",
)

spider = Component(
    kind="metric",
    name="spider",
    config=SpiceConfig,
    factory="lavcap_metrics.spider:build",
    summary="SPIDEr: mean of CIDEr-D and SPICE.",
    source="Liu et al. 2017",
)

fense = Component(
    kind="metric",
    name="fense",
    config=FenseConfig,
    factory="lavcap_metrics.fense:build",
    summary="FENSE: similarity of sentences, less for captions with errors of fluency. Needs local models.",
    source="Zhou et al. 2022",
)

spider_fl = Component(
    kind="metric",
    name="spider_fl",
    config=SpiderFlConfig,
    factory="lavcap_metrics.spider:build_fl",
    summary="SPIDEr-FL: SPIDEr, less for captions with errors of fluency. Needs a local model.",
    source="DCASE 2023, task 6a",
)

diversity = Component(
    kind="metric",
    name="diversity",
    config=Config,
    factory="lavcap_metrics.diversity:build",
    summary="Vocabulary, distinct n-grams, length and empty captions; no references needed.",
    source="distinct-n: Li et al. 2016",
)
