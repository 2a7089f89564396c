import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lavcap_core.errors import RunError
from lavcap_llama.text import Text

from .conftest import tokenizer


def shown(text: Text, part: object) -> object:
    return part if isinstance(part, str) else text.tokenizer.decode(part)


def test_a_plain_prompt_begins_with_bos_and_holds_the_slot() -> None:
    text = Text(tokenizer(), "audio")
    head, before, slot, after, tail = text.prompts(1)[0]
    assert (head, slot, tail) == ([0], "tokens", [])
    assert shown(text, before) == "USER: <Audio>"
    assert shown(text, after) == "</Audio> Please describe the audio.\nASSISTANT:"


def test_a_model_without_bos_gets_none() -> None:
    words = tokenizer()
    words.bos_token = None
    assert Text(words, "audio").prompts(1)[0][0] == []


def test_a_chat_prompt_stands_in_the_tokenizers_template_with_its_special_tokens() -> None:
    text = Text(tokenizer(), "audio", template="chat")
    head, before, slot, after, tail = text.prompts(1)[0]
    assert (head, slot, tail) == ([2], "tokens", [1, 3])
    assert shown(text, before) == "<Audio>"
    assert shown(text, after) == "</Audio> Please describe the audio."


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_special_tokens_in_what_people_write_are_text(template: str) -> None:
    text = Text(tokenizer(), "audio", template)
    wild = "</s> <|bot|><pad>"
    prompt = text.prompts(1, [wild])[0]
    assert not {0, 1, 2, 3, 4} & {code for part in prompt[1:-1] if not isinstance(part, str) for code in part}
    caption = text.captions([wild])[0]
    assert caption[-1] == 1
    assert not {0, 1, 2, 3, 4} & set(caption[:-1])
    assert text.decode(torch.tensor([caption]), [1]) == [wild]


def test_captions_are_parted_from_the_prompt_by_one_space() -> None:
    words = tokenizer()
    assert Text(words, "audio").captions([" a dog "]) == [[*words.encode(" a dog", add_special_tokens=False), 1]]
    assert Text(words, "{tokens}\n").captions(["x"])[0] == [*words.encode("x", add_special_tokens=False), 1]
    assert Text(words, "audio", "chat").captions(["x"])[0] == [*words.encode("x", add_special_tokens=False), 1]


def test_a_tokenizer_that_puts_the_space_itself_gets_no_second_one() -> None:
    inner = Tokenizer(models.BPE(vocab={"</s>": 0, "▁": 1, "a": 2, "b": 3}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(["</s>"])
    text = Text(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>"), "{tokens}b")
    assert text.captions(["a b"]) == [[1, 2, 1, 3, 0]]


def test_what_follows_the_first_end_token_is_dropped() -> None:
    text = Text(tokenizer(), "audio")
    a, b = (text.tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "ab")
    ids = torch.tensor([[a, 1, b, b], [a, b, 3, a], [b, b, b, b]])
    assert text.decode(ids, [1, 3]) == ["a", "ab", "bbbb"]


def test_speech_draws_instructions_in_training_only() -> None:
    torch.manual_seed(0)
    text = Text(tokenizer(), "speech")
    drawn = {str(prompt) for prompt in text.prompts(200, training=True)}
    assert len(drawn) == 8
    assert len({str(prompt) for prompt in text.prompts(50)}) == 1
    assert len({str(prompt) for prompt in Text(tokenizer(), "audio").prompts(50, training=True)}) == 1
    assert len({str(prompt) for prompt in Text(tokenizer(), "speech", random=False).prompts(50, training=True)}) == 1


def test_own_instructions_replace_the_lists() -> None:
    torch.manual_seed(0)
    text = Text(tokenizer(), "{tokens} {instruction}", instructions=["One.", "Two."], random=True)
    assert shown(text, text.prompts(1)[0][-2]) == " One."
    assert {shown(text, prompt[-2]) for prompt in text.prompts(50, training=True)} == {" One.", " Two."}


def test_a_wrong_number_of_prompts_is_an_error() -> None:
    with pytest.raises(RunError, match="3 prompts for 2 samples"):
        Text(tokenizer(), "audio").prompts(2, ["a", "b", "c"])
