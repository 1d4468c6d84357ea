"""transformers reads an exported folder and writes what `sample` writes, by the card's own code."""

import pytest
import torch
from PIL import Image

import dlreview
from dlreview import export, fit, push, sample, saved
from dlreview.data.tokenizer import BPE, SPECIALS, Characters, Words
from dlreview.nn.bert import BERT, MaskedTokenHead
from dlreview.nn.captioner import VisionEncoderDecoder
from dlreview.nn.decoder import DecoderBlock
from dlreview.nn.encoder_decoder import EncoderDecoder
from dlreview.nn.gpt import GPT
from dlreview.nn.vit import ViT
from tests.hub_server import Hub
from tests.saved.states import assert_equal_states

TEXTS = ["the with statement opens a file", "the import statement finds a module", "a = b + 12"]
TOKENIZERS = {
    "pieces": lambda: BPE(290).train(TEXTS),
    "words": lambda: Words().train(TEXTS),
    "characters": lambda: Characters().train(TEXTS),
}
LENGTH = 24
IMAGE = {"channels": 1, "height": 8, "width": 8, "range": [-1.0, 1.0]}


def bert(size):
    return BERT(size, 12, 1, 3, LENGTH, head=MaskedTokenHead(size, 12))


def gpt(size):
    return GPT(size, 12, 2, 3, LENGTH)


def transformer(size):
    return EncoderDecoder(size, 12, 1, 3, max_length=12)


def captioner(size):
    """Return a network with the parts that the recipe names, in which it has no others."""
    decoder = GPT(size, 12, 2, 3, 10, block=DecoderBlock(12, 3))
    return VisionEncoderDecoder(ViT(8, 2, 8, 1, 2, image_channels=1), decoder)


NETWORKS = {
    "fill_mask": bert,
    "text_generation": gpt,
    "translation": transformer,
    "captioning": captioner,
}

AUTO = {
    "fill_mask": "AutoModelForMaskedLM",
    "text_generation": "AutoModelForCausalLM",
    "translation": "AutoModelForSeq2SeqLM",
    "captioning": "AutoModelForImageTextToText",
}


def made(folder, task, tokenizer="pieces", rows=3, spread=0.6):
    """Save a network with `rows` more tokens than its tokenizer; return it with the folder."""
    encoder = TOKENIZERS[tokenizer]()
    net = NETWORKS[task](len(encoder) + rows).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():  # not the tables of sinusoids, which theirs computes
            parameter.normal_(0, spread, generator=generator)
    usage = {"task": task, "tokenizer": encoder.json, "max_length": LENGTH, "data": "texts"}
    if task == "captioning":
        usage["image"] = IMAGE
    saved.save({"net": net}, folder / "model", "card", usage)
    return net, encoder


def exported(folder, library="transformers"):
    assert export.main([str(folder / "model"), str(folder / library), "--format", library]) == 0
    return folder / library


def run_card(folder):
    """Run the code of a model card, and return its names."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    return names


def sampled(capsys, folder, *argv):
    argv = [str(folder / "model"), *map(str, argv), "--device", "cpu"]
    capsys.readouterr()
    out = folder / f"out{len(list(folder.glob('out*')))}"
    assert sample.main([*argv, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    return [line for line in lines if not line.startswith("picture: ")]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_masks(tokenizer, tmp_path, capsys):
    """Their pipeline gives special tokens a share too; ours leaves them out."""
    _, encoder = made(tmp_path, "fill_mask", tokenizer)
    names = run_card(exported(tmp_path))
    fill, net = names["fill"], names["net"]
    found = fill("the <mask> statement", top_k=net.config.vocab_size)
    found = [row for row in found if len(SPECIALS) <= row["token"] < len(encoder)]
    total, best = sum(row["score"] for row in found), found[0]["token"]
    lines = sampled(capsys, tmp_path, "the [MASK] statement", "--top", 4)
    shares = [float(word.rpartition(" ")[2]) for word in lines[1].strip().split("  ")]
    assert shares == pytest.approx([row["score"] / total for row in found[:4]], abs=6e-4)
    assert lines[1].strip().startswith(encoder.decode([best]).strip())


def test_texts(tmp_path, capsys):
    from transformers import pipeline

    made(tmp_path, "text_generation")
    folder = exported(tmp_path)
    assert "generated_text" in run_card(folder)["write"]("the")[0]
    write = pipeline("text-generation", str(folder))
    for prompt in ("", "the", "the with"):
        words = [prompt] if prompt else []
        (found,) = write(prompt, do_sample=False, max_new_tokens=12)
        ours = sampled(capsys, tmp_path, *words, "--temperature", 0, "--count", 1, "--length", 12)
        assert found["generated_text"] == "\n".join(ours)
        how = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False}
        found = write(prompt, max_new_tokens=9, **how)
        ours = sampled(capsys, tmp_path, *words, "--beams", 3, "--count", 2, "--length", 9)
        assert "\n".join(row["generated_text"] for row in found) == "\n".join(ours)
    wrong = write("the", do_sample=False, max_new_tokens=12, add_special_tokens=False)
    right = write("the", do_sample=False, max_new_tokens=12)
    assert wrong != right, "a text begins after <eos>"
    # Without options both draw from the same probabilities: with the same numbers, the same texts.
    torch.manual_seed(5)
    (found,) = write("the", max_new_tokens=12)
    room = ["--count", 1, "--length", 12, "--seed", 5]
    assert found["generated_text"] == "\n".join(sampled(capsys, tmp_path, "the", *room))


@pytest.mark.parametrize("tokenizer", ["pieces", "words"])
def test_translations(tokenizer, tmp_path, capsys):
    made(tmp_path, "translation", tokenizer)
    names = run_card(exported(tmp_path))
    net, tokenizer = names["net"], names["tokenizer"]
    for text in ("the with statement", "a = b"):
        inputs = tokenizer(text, return_tensors="pt")
        for flags, how in (((), {}), (("--beams", 1), {"num_beams": 1})):
            (ids,) = net.generate(**inputs, **how)
            ours = "\n".join(sampled(capsys, tmp_path, text, "--length", 12, *flags))
            assert tokenizer.decode(ids, skip_special_tokens=True) == ours and len(ours) > 3
    labels = tokenizer(text_target="a file").input_ids
    assert labels[-1] == tokenizer.eos_token_id != labels[0]
    loss = net(**inputs, labels=torch.tensor([labels])).loss
    ours, ids = dlreview.load(tmp_path / "model"), torch.tensor([[2, *labels]])
    logits = ours(inputs.input_ids, ids[:, :-1])
    wanted = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:])
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokenizer", ["pieces", "words"])
def test_captions(tokenizer, tmp_path, capsys):
    made(tmp_path, "captioning", tokenizer)
    names = run_card(exported(tmp_path))
    net, processor, tokenizer = names["net"], names["processor"], names["tokenizer"]
    for seed in range(2):
        pixels = torch.randint(256, (8, 8), generator=torch.Generator().manual_seed(seed))
        picture = Image.fromarray(pixels.to(torch.uint8).numpy())
        picture.save(tmp_path / "x.png")
        inputs = processor(picture, return_tensors="pt")
        for flags, how in (((), {}), (("--beams", 1), {"num_beams": 1})):
            (ids,) = net.generate(**inputs, **how)
            ours = "\n".join(sampled(capsys, tmp_path, tmp_path / "x.png", *flags))
            assert f"x.png  {tokenizer.decode(ids, skip_special_tokens=True)}" == ours
            assert len(ours) > 10


@pytest.mark.parametrize("task", NETWORKS)
def test_what_the_library_reads(task, tmp_path):
    import transformers
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    net, encoder = made(tmp_path, task)
    folder = exported(tmp_path)
    assert getattr(transformers, AUTO[task]).from_pretrained(folder).config.model_type
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == encoder.tokenizer.get_vocab()
    assert tokenizer.model_max_length == net.max_length
    begin = "<eos>" if task == "text_generation" else "<bos>"
    names = ("pad_token", "unk_token", "bos_token", "eos_token", "mask_token")
    special = ["<pad>", "<unk>", begin, "<eos>", "<mask>"]
    assert [getattr(tokenizer, name) for name in names] == special
    config = AutoConfig.from_pretrained(folder)
    ids = [SPECIALS.index(begin), 3, 0]
    assert [config.bos_token_id, config.eos_token_id, config.pad_token_id] == ids
    assert ("<" in tokenizer.decode(tokenizer("a = b").input_ids)) and (
        tokenizer.decode(tokenizer("a = b").input_ids, skip_special_tokens=True) == "a = b"
    )
    if task == "fill_mask":
        return
    written = GenerationConfig.from_pretrained(folder)
    assert [written.bos_token_id, written.eos_token_id, written.pad_token_id] == ids
    rows = range(len(encoder), len(encoder) + 3)
    assert written.suppress_tokens == [0, 1, 2, 4, *rows], "rows that stand for no token"
    if task != "text_generation":
        assert config.decoder_start_token_id == written.decoder_start_token_id == 2
        assert (
            written.forced_eos_token_id is None
            and getattr(config, "forced_eos_token_id", None) is None
        )


@pytest.mark.parametrize("task", NETWORKS)
def test_back_again_bit_equal(task, tmp_path):
    from dlreview.reference import Pretrained

    net, _ = made(tmp_path, task)
    again = Pretrained(str(exported(tmp_path))).state_dict()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again[name]), name


def test_a_network_without_tokenizer_leaves_too(tmp_path):
    for task, net in NETWORKS.items():
        folder = tmp_path / task
        saved.save({"net": net(40)}, folder / "model", "card", {"task": task, "image": IMAGE})
        names = run_card(exported(folder))
        assert names["net"].config.model_type and not (folder / "tokenizer.json").exists()


def test_an_encoder_without_head_has_its_tokenizer_too(tmp_path):
    encoder = TOKENIZERS["words"]()
    usage = {"tokenizer": encoder.json}
    saved.save({"net": BERT(len(encoder), 12, 1, 3, LENGTH)}, tmp_path / "model", "card", usage)
    names = run_card(exported(tmp_path))
    assert names["tokenizer"]("a <mask>").input_ids == encoder.encode(["a <mask>"])[0]
    assert type(names["net"]).__name__ == "BertModel"


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path, capsys):
    net, encoder = gpt(40), TOKENIZERS["pieces"]()
    usage = {"task": "text_generation", "tokenizer": encoder.json}
    saved.save({"net": net}, tmp_path / "model", "card", usage)
    words = [str(tmp_path / "model"), str(tmp_path / "out"), "--format", "transformers"]
    assert export.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{len(encoder)} tokens for this GPT" in line and not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes")
def test_a_run_goes_to_the_hub_and_comes_back(tmp_path, monkeypatch, capsys):
    """Train, load, export, push, load and sample: always the same network, the same text."""
    run = tmp_path / "model"
    recipe = "recipes/translation_transformer_numbers.yaml"
    small = {"net.width": 12, "net.depth": 1, "net.heads": 2, "translated": 4}
    flags = [word for name, value in small.items() for word in (f"--model.{name}", str(value))]
    flags += ["--data.tokens_per_batch", "512", "--trainer.max_steps", "3", "--out", str(run)]
    flags += ["--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"]
    assert fit.main([recipe, *flags, "--wandb", "off"]) == 0
    first, lines = dlreview.load(run), sampled(capsys, tmp_path, "1,204", "--length", 9)
    assert run_card(exported(tmp_path))["net"].config.model_type == "marian"
    exported(tmp_path, "dlreview")
    with Hub() as hub:
        hub.point_clients(monkeypatch, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", "hf_ann")
        assert push.main([str(tmp_path / "dlreview"), "ann/numbers"]) == 0
        for source in (tmp_path / "dlreview", "ann/numbers"):
            assert_equal_states(dlreview.load(source), first)
            capsys.readouterr()
            words = [str(source), "1,204", "--length", "9", "--device", "cpu"]
            assert sample.main([*words, "--out", str(tmp_path / str(len(str(source))))]) == 0
            assert capsys.readouterr().out.splitlines()[1 : 1 + len(lines)] == lines
