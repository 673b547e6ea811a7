"""`python -m llm_backend` is `llm-backend`."""

from llm_backend.cli.main import main

if __name__ == "__main__":
    main()
