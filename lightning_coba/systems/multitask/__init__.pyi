from .lm import MultitaskLM as MultitaskLM
