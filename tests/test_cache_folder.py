from pathlib import Path

from lightning_coba.cache_folder import cache_folder


def test_own_variable_comes_before_the_common_one_and_the_home(monkeypatch):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", "~/mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path.home() / "mine"
    monkeypatch.delenv("LIGHTNING_COBA_CACHE")
    assert cache_folder() == Path("/caches/lightning_coba")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "lightning_coba"
