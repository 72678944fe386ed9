"""A text model on the meta device, bound tensor by tensor from a checkpoint: never two copies of a weight.

`from_pretrained` is not used: on a LLaVA folder it leaves a Llama with random weights and says nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ...errors import CheckpointError
from ...quantize.source import HvliteSource, check_finite
from ..models.linear import bind_quantized
from ..recovery.memory import out_of_memory

if TYPE_CHECKING:
    from ...quantize.source import AnyTextSource
    from .tokens import PromptTokenizer

# Whatever config.json says. No padding row: prompts run unpadded, and a pad id beyond the table stops the building.
HOW_IT_RUNS = {
    "attn_implementation": "sdpa",
    "pad_token_id": None,
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
}
LEGACY_CLIP_EOS = 2
OTHER_TOKENIZER = "take the tokenizer that came with these weights"


@contextmanager
def quiet_import() -> Iterator[None]:
    """For importing transformers: it loads torchao where installed, which warns of each GPU library it lacks."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def build_on_meta(
    model_class: Callable[..., Any], config_class: Callable[..., Any], source: AnyTextSource, **changes: Any
) -> torch.nn.Module:
    """The model that the source's config.json (and `changes`) describes, without memory for its weights."""
    try:
        with torch.device("meta"):
            model: torch.nn.Module = model_class(config_class(**{**source.config, **HOW_IT_RUNS, **changes}))
    except Exception as error:
        if out_of_memory(error) is not None:
            raise
        # transformers' validators raise what they happen to
        raise CheckpointError(
            f"{source.paths[0]}: the config.json beside it describes no usable text model ({error})",
            hint="restore the config.json that came with the weights",
        ) from None
    return model.eval()


def bind_weights(model: torch.nn.Module, source: AnyTextSource, *, device: torch.device, dtype: torch.dtype) -> None:
    """Give every parameter its tensor, in `dtype` on `device`. CheckpointError for non-finite or misshapen tensors."""
    if isinstance(source, HvliteSource):
        bind_quantized(model, source, device)
    for name, parameter in list(model.named_parameters()):
        tensor = source.read_dequantized(name, dtype)
        check_finite(tensor, name, source.paths[0])
        if tensor.shape != parameter.shape:
            found, expected = list(tensor.shape), list(parameter.shape)
            raise CheckpointError(f"{source.paths[0]}: {name} is {found}, expected {expected}")
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(tensor.to(device), requires_grad=False))
    empty = [name for name, value in (*model.named_parameters(), *model.named_buffers()) if value.is_meta]
    if empty:
        raise CheckpointError(f"{source.paths[0]}: nothing gives {empty[0]} its values")


def require_ids(source: AnyTextSource, vocab_size: int, tokenizer: PromptTokenizer) -> None:
    """CheckpointError when the tokenizer makes ids beyond the model's embedding table."""
    if tokenizer.id_count > vocab_size:
        raise CheckpointError(
            f"{source.paths[0]}: the tokenizer's ids go to {tokenizer.id_count - 1}, the model embeds {vocab_size}",
            hint=OTHER_TOKENIZER,
        )


def require_end_token(source: AnyTextSource, eos_token_id: object, tokenizer: PromptTokenizer) -> None:
    """CheckpointError when CLIP would pool another row than that of the token a prompt ends with."""
    ids = tokenizer.encode("").ids
    # Configs written before transformers 4.31 say 2 and mean the highest id.
    end = max(ids) if eos_token_id == LEGACY_CLIP_EOS else eos_token_id
    if ids[-1] != end or end in ids[:-1]:
        raise CheckpointError(
            f"{source.paths[0]}: the tokenizer ends a prompt with id {ids[-1]}, the model pools at id {end}",
            hint=OTHER_TOKENIZER,
        )
