from .generation import Decoding as Decoding, generate as generate
from .language_model import LanguageModel as LanguageModel, load_language_model as load_language_model
from .tokenizer import load_tokenizer as load_tokenizer
