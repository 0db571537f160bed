"""The paper's two models, as transformers' configs have them."""

from transformers import LlamaConfig, OlmoConfig

LLAMA2_7B = LlamaConfig()  # the library's defaults are LLaMA-7B's; LLaMA2 has a context of 4096
OLMO_1B = OlmoConfig(
    vocab_size=50304,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=16,
    num_key_value_heads=16,
    tie_word_embeddings=True,
)
