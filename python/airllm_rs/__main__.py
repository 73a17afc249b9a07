"""`python -m airllm_rs`: the command line."""

from airllm_rs.cli import main

if __name__ == "__main__":
    main()
