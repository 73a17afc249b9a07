"""Continue a text: AirLLM's README example, the import changed and `.cuda()` left out.

What an instruct model is asked belongs into its chat template: see chat.py.
"""

import sys

from airllm_rs import AutoModel

MAX_LENGTH = 128

model = AutoModel.from_pretrained(sys.argv[1])  # a directory, a hub id, or a .gguf file

input_text = ["What is the capital of United States?"]
input_tokens = model.tokenizer(
    input_text,
    return_tensors="pt",
    return_attention_mask=False,
    truncation=True,
    max_length=MAX_LENGTH,
    padding=False,
)
generation_output = model.generate(
    input_tokens["input_ids"], max_new_tokens=20, use_cache=True, return_dict_in_generate=True
)
print(model.tokenizer.decode(generation_output.sequences[0]))  # type: ignore[union-attr]
