"""What `airllm-rs bench` and `airllm-rs doctor` run."""
