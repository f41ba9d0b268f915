"""The demo model, `lp.load("demo")`: a trained miniature of Llama 3.2. README.md here is its card."""
