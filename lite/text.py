"""Prompts -> what the transformer reads of them: the language model's states and CLIP's pooled vector.

Sources: the official `hyvideo/text_encoder/__init__.py` and `hyvideo/inference.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..quantize.format import HvliteTextEncoder
from ..quantize.source import open_text_encoder, open_text_encoder_2
from .encoders.text_layers import OpenSource, bind_by_layer
from .encoders.text_models import bind_weights, build_on_meta, quiet_import, require_end_token, require_ids
from .encoders.tokenizer_files import PromptTokenizers, load_tokenizers
from .encoders.tokens import PromptTokenizer, Truncation

if TYPE_CHECKING:
    from transformers import CLIPTextModel, LlamaModel

    from ..quantize.source import AnyTextSource, ModelFiles, TextSource
    from .card import ModelCard

# The transformer reads hidden_states[-(2 + 1)], before the final norm.
SKIPPED_LAYERS = 2
LLAMA_LAYERS = 32


@dataclass(frozen=True)
class PromptEmbeds:
    """The text of a batch of B videos, as the transformer takes it.

    prompt_embeds [B, L, D]: the language model's states of each prompt's tokens, zero behind them.
    prompt_mask [B, L] int64: 1 for a token, 0 behind the last one.
    pooled_prompt_embeds [B, P]: CLIP's state at the end of the prompt.
    truncations: where prompts were cut, in the order of the prompts.
    cached: whether they were read from disk instead of encoded.
    """

    prompt_embeds: Tensor
    prompt_mask: Tensor
    pooled_prompt_embeds: Tensor
    truncations: tuple[Truncation, ...] = ()
    cached: bool = False


class TextEncoders:
    """The language model and CLIP with their tokenizers, on one device.

    Prompts run one by one and without padding: a prompt's embeddings do not depend on what it is batched with, and a
    short prompt costs little. Valid rows differ from the official padded run by rounding only, as attention is causal.
    """

    def __init__(self, tokenizers: PromptTokenizers, llm: LlamaModel, clip: CLIPTextModel) -> None:
        self.tokenizers, self.llm, self.clip = tokenizers, llm, clip

    @torch.no_grad()
    def encode(self, prompts: str | Sequence[str], image: bool = False) -> PromptEmbeds:
        """Embeddings of one prompt or several (stripped; may be empty); `image` takes the single-image template.

        L is the template's max_length: 256, and 315 for an image, with the official templates. ConfigError for no
        prompt at all and for what is not text.
        """
        batch = [prompts] if isinstance(prompts, str) else list(prompts)
        if not batch or not all(isinstance(prompt, str) for prompt in batch):
            raise ConfigError("encode takes a prompt or a non-empty sequence of prompts")
        tokenizer = self.tokenizers.image if image else self.tokenizers.video
        states, masks = zip(*(self._states(tokenizer, prompt) for prompt in batch), strict=True)
        cuts = [cut for prompt in batch for cut in self.tokenizers.truncations(prompt, image)]
        pooled = [self._pooled(prompt) for prompt in batch]
        return PromptEmbeds(torch.stack(states), torch.stack(masks), torch.cat(pooled), tuple(cuts))

    def _states(self, tokenizer: PromptTokenizer, prompt: str) -> tuple[Tensor, Tensor]:
        template = tokenizer.template
        ids = torch.tensor([tokenizer.encode(prompt).ids], device=self.clip.device)
        valid = self.llm(input_ids=ids, use_cache=False).last_hidden_state[0, template.crop_start :]
        states = valid.new_zeros(template.max_length, valid.shape[1])
        states[: len(valid)] = valid
        mask = torch.zeros(template.max_length, dtype=torch.int64, device=valid.device)
        mask[: len(valid)] = 1
        return states, mask

    def _pooled(self, prompt: str) -> Tensor:
        ids = torch.tensor([self.tokenizers.clip.encode(prompt).ids], device=self.clip.device)
        pooled: Tensor = self.clip(input_ids=ids).pooler_output
        return pooled


def load_text_encoders(
    files: ModelFiles,
    card: ModelCard,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    by_layer: bool = False,
) -> TextEncoders:
    """Both encoders of a located model with the templates of `card`, weights in `dtype` on `device`.

    Each tensor is read, cast and bound alone; layers past the used state are not read. `by_layer` reads the language
    model's layers when they run, one at a time, and keeps none. Raises CheckpointError naming file and tensor.
    """
    device = torch.device(device)
    tokenizers = load_tokenizers(files, card)
    with open_text_encoder(files) as source:
        llm = _load_llm(source, device, dtype, (lambda: open_text_encoder(files)) if by_layer else None)
        require_ids(source, llm.config.vocab_size, tokenizers.video)
    with open_text_encoder_2(files) as clip_source:
        clip = _load_clip(clip_source, device, dtype)
        require_ids(clip_source, clip.config.vocab_size, tokenizers.clip)
        require_end_token(clip_source, clip.config.eos_token_id, tokenizers.clip)
    return TextEncoders(tokenizers, llm, clip)


def _load_llm(source: AnyTextSource, device: torch.device, dtype: torch.dtype, reopen: OpenSource | None) -> LlamaModel:
    """A Llama whose `last_hidden_state` is the official hidden_states[-3]: what lies behind is neither read nor run.

    `reopen`: for a model whose layers are read when they run.
    """
    with quiet_import():
        from transformers import LlamaConfig, LlamaModel

    if source.config.get("model_type", "llama") != "llama":
        raise CheckpointError(
            f"{source.paths[0]}: the language model is of type {source.config['model_type']!r}, expected 'llama'",
            hint="HunyuanVideo reads the Llama inside llava-llama-3-8b",
        )
    skipped = source.skipped_layers if isinstance(source, HvliteTextEncoder) else SKIPPED_LAYERS
    layers = source.config.get("num_hidden_layers", LLAMA_LAYERS)
    if not isinstance(layers, int) or layers <= skipped:
        raise CheckpointError(
            f"{source.paths[0]}: num_hidden_layers is {layers!r}, expected a whole number from {skipped + 1}",
            hint=f"the transformer reads the states before the language model's last {skipped} layers",
        )
    model: Any = build_on_meta(LlamaModel, LlamaConfig, source, num_hidden_layers=layers - skipped)
    model.norm = torch.nn.Identity()
    # Computed, not stored; fp32 whatever the weights' dtype, for half precision would blur the positions.
    with device:
        model.rotary_emb = type(model.rotary_emb)(model.config)
    if reopen is None:
        bind_weights(model, source, device=device, dtype=dtype)
    else:
        bind_by_layer(model, reopen, device=device, dtype=dtype)
    return cast("LlamaModel", model)


def _load_clip(source: TextSource, device: torch.device, dtype: torch.dtype) -> CLIPTextModel:
    with quiet_import():
        from transformers import CLIPTextConfig, CLIPTextModel

    model: Any = build_on_meta(CLIPTextModel, CLIPTextConfig, source)
    positions = torch.arange(model.config.max_position_embeddings, device=device).expand((1, -1))
    model.embeddings.register_buffer("position_ids", positions, persistent=False)
    bind_weights(model, source, device=device, dtype=dtype)
    return cast("CLIPTextModel", model)
