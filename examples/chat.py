"""Ask an instruct model as in a chat, and print the answer while it comes."""

import sys

from airllm_rs import AutoModel

model = AutoModel.from_pretrained(sys.argv[1])  # a directory, a hub id, or a .gguf file

question = {"role": "user", "content": "What is the capital of France?"}
for piece in model.stream([question], max_new_tokens=50):
    print(piece, end="", flush=True)
print()
