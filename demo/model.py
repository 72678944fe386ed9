"""The demo model's transformer and text encoders as one module, so that they train together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..lite.models.transformer import HunyuanVideoTransformer
from ..quantize.architecture import TransformerConfig
from .vocabulary import CLIP_TEMPLATE, TEMPLATE

if TYPE_CHECKING:
    from .optim import Optimiser

TEXT_DIM = 64
TRAINED_LAYERS = 3
SKIPPED_LAYERS = 2  # the official rule reads the states before the last two layers
VOCABULARY = 704
CLIP_END_ID = 701
TRANSFORMER = TransformerConfig(
    hidden_size=128,
    heads_num=2,
    mm_double_blocks_depth=2,
    mm_single_blocks_depth=5,
    rope_dim_list=(16, 24, 24),
    text_states_dim=TEXT_DIM,
    text_states_dim_2=TEXT_DIM,
    refiner_depth=1,
)


def llm_config(layers: int) -> Any:
    """The language model's architecture as a transformers LlamaConfig."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=TEXT_DIM,
        intermediate_size=176,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.1,
        pad_token_id=None,
        bos_token_id=VOCABULARY - 4,
        eos_token_id=VOCABULARY - 2,
    )


def clip_config() -> Any:
    """CLIP's text encoder as a transformers CLIPTextConfig; its end token has an id of its own, not the legacy 2."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=TEXT_DIM,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CLIP_TEMPLATE.crop_start + CLIP_TEMPLATE.max_length,
        projection_dim=TEXT_DIM,
        bos_token_id=CLIP_END_ID - 1,
        eos_token_id=CLIP_END_ID,
        pad_token_id=None,
        initializer_factor=4.0,
    )


class DemoModel(nn.Module):
    """Captions' token ids and noisy latents in, the velocity out."""

    def __init__(self, transformer: TransformerConfig = TRANSFORMER) -> None:
        super().__init__()
        from transformers import CLIPTextModel, LlamaModel

        self.transformer = HunyuanVideoTransformer(transformer)
        llm: Any = LlamaModel(llm_config(TRAINED_LAYERS))
        llm.norm = nn.Identity()
        self.llm: Any = llm
        self.clip: Any = CLIPTextModel(clip_config())

    def text(self, llm_ids: Tensor, clip_ids: Tensor) -> tuple[Tensor, Tensor]:
        """llm_ids [B, L] of equal valid lengths, clip_ids [B, M] padded with the end token -> states, pooled."""
        states = self.llm(input_ids=llm_ids, use_cache=False).last_hidden_state[:, TEMPLATE.crop_start :]
        return states, self.clip(input_ids=clip_ids).pooler_output

    def forward(self, latents: Tensor, sigma: Tensor, guidance: Tensor, text: tuple[Tensor, Tensor]) -> Tensor:
        """latents [B, 16, T, H, W], sigma [B] in 0..1, guidance scale [B] -> the velocity, noise minus video."""
        velocity: Tensor = self.transformer(
            latents=latents,
            timestep=1000 * sigma,
            guidance=1000 * guidance,
            prompt_embeds=text[0],
            pooled_prompt_embeds=text[1],
        )
        return velocity

    def initialise(self) -> None:
        """adaLN-zero: every block starts as the identity and the output as zero."""
        for name, module in self.transformer.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            if name.endswith(("mod.linear", "modulation.linear", "adaLN_modulation.1", "final_layer.linear")):
                nn.init.zeros_(module.weight)
        nn.init.normal_(self.llm.embed_tokens.weight, std=0.5)

    def optimiser(self, lr: float, adam_lr: float) -> Optimiser:
        """Muon for the inner matrices; Adam for tables, first and last layers, norms and biases."""
        from .optim import Optimiser

        edges = ("embed", "img_in", "final_layer.linear", "position")
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, param in self.named_parameters():
            inner = param.ndim == 2 and not any(edge in name for edge in edges)
            (matrices if inner else others).append(param)
        return Optimiser(matrices, others, lr, adam_lr)


def noisy(latents: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """The point between video and noise that flow matching trains on."""
    weight = sigma.view(-1, 1, 1, 1, 1)
    return torch.lerp(latents, noise, weight)
