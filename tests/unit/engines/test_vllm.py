"""Launch plans for vLLM, and what its log says about a load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines import plan_for, vllm
from llm_backend.engines.base import Progress
from llm_backend.errors import EngineStartFailed
from llm_backend.weights.store import Store


def spec(*, runtime: str = "process", **changes: Any) -> ModelSpec:
    engine = {"kind": "vllm", **changes.pop("engine", {})}
    fields = {
        "id": "qwen-14b",
        "runtimes": [runtime],
        "capabilities": ["chat"],
        "devices": ["gpu"],
        "engine": engine,
    }
    return ModelSpec.model_validate({**fields, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


class TestProcess:
    def test_options_become_flags_and_ours_come_last(self, store: Store, tmp_path: Path) -> None:
        options = {
            "enforce-eager": True,
            "enable-prefix-caching": False,
            "seed": None,
            "max-model-len": 2048,
            "limit-mm-per-prompt": '{"image": 2}',
            "host": "0.0.0.0",
        }
        weights = {"source": "path", "path": str(tmp_path)}

        plan = plan_for(spec(engine={"options": options}, weights=weights), store)

        assert plan.argv == (
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"),
            *("--max-model-len", "2048", "--limit-mm-per-prompt", '{"image": 2}'),
            *("--host", "0.0.0.0", "--model", str(tmp_path), "--served-model-name", "qwen-14b"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        )

    def test_it_stays_offline_and_sends_no_statistics(self, store: Store) -> None:
        plan = plan_for(spec(environment={"VLLM_CPU_KVCACHE_SPACE": "1"}), store)

        assert plan.env == {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        }

    def test_an_interpreter_that_is_not_there_is_named(self, store: Store) -> None:
        with pytest.raises(EngineStartFailed) as caught:
            plan_for(spec(engine={"python": "/nowhere/bin/python"}), store)

        assert "'qwen-14b' is to run with /nowhere/bin/python" in caught.value.message
        assert "virtual environment" in (caught.value.hint or "")

    def test_its_own_configuration_file_is_passed_on(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "engine.yaml").write_text("max-num-seqs: 16\n")

        plan = plan_for(spec(engine={"config_file": str(tmp_path / "engine.yaml")}), store)

        assert plan.argv[3:5] == ("--config", str(tmp_path / "engine.yaml"))

    def test_the_installed_version_is_part_of_the_fingerprint(
        self, store: Store, tmp_path: Path
    ) -> None:
        python = tmp_path / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        site = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
        (site / "vllm-0.32.0.dist-info").mkdir(parents=True)
        asked = spec(engine={"python": str(python)})
        before = plan_for(asked, store).fingerprint

        (site / "vllm-0.32.0.dist-info").rename(site / "vllm-0.33.0.dist-info")

        assert plan_for(asked, store).fingerprint != before


class TestContainer:
    def test_the_plan_is_a_name_and_an_address(self, store: Store) -> None:
        asked = spec(runtime="docker", engine={"container": "llm-qwen-14b"}, port=8001)

        plan = plan_for(asked, store)

        assert (plan.container, plan.host, plan.port) == ("llm-qwen-14b", "llm-qwen-14b", 8001)
        assert (plan.argv, plan.served_name) == ((), "qwen-14b")

    def test_weights_that_it_could_not_fetch_have_to_be_here(self, store: Store) -> None:
        weights = {"source": "hub", "repo": "Qwen/Qwen2.5-14B-Instruct-AWQ"}
        asked = spec(runtime="docker", engine={"container": "c"}, weights=weights)

        with pytest.raises(EngineStartFailed, match="Run: llm-backend download qwen-14b"):
            plan_for(asked, store)

        assert plan_for(spec(runtime="docker", engine={"container": "c"}), store).port == 8000

    def test_a_model_without_a_container_is_refused(self, store: Store) -> None:
        with pytest.raises(EngineStartFailed, match="'qwen-14b' names no container"):
            plan_for(spec(runtime="docker"), store)

    def test_the_fingerprint_follows_the_content_of_its_file(
        self, store: Store, tmp_path: Path
    ) -> None:
        file = tmp_path / "engine.yaml"
        asked = spec(runtime="docker", engine={"container": "c", "config_file": str(file)})
        file.write_text("max-model-len: 8192\n")
        before = plan_for(asked, store).fingerprint
        file.write_text("max-model-len: 16384\n")

        assert plan_for(asked, store).fingerprint != before

    def test_a_file_that_is_not_there_is_named(self, store: Store) -> None:
        asked = spec(runtime="docker", engine={"container": "c", "config_file": "/nowhere/e.yaml"})

        with pytest.raises(EngineStartFailed, match=r"configured in /nowhere/e\.yaml"):
            plan_for(asked, store)


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        (
            "(Worker pid=9) INFO 11-21 14:43:32 [cpu_model_runner.py:68] Starting to load model /m...",
            Progress("loading weights", 0.0),
        ),
        (
            "\rLoading safetensors checkpoint shards:   0% Completed | 0/6 [00:00<?, ?it/s]",
            Progress("loading weights (0/6)", 0.0),
        ),
        (
            "\rLoading safetensors checkpoint shards:  50% Completed | 3/6 [00:01<00:01, 2.31it/s]",
            Progress("loading weights (3/6)", 0.5),
        ),
        (
            "Loading pt checkpoint shards: 100% Completed | 2/2 [00:00<00:00, 255.66it/s]",
            Progress("loading weights (2/2)", 1.0),
        ),
        (
            "(Worker pid=9) INFO 11-21 14:43:32 [default_loader.py:501] Loading weights took 0.01 seconds",
            Progress("weights loaded", 1.0),
        ),
        (
            "INFO [gpu_model_runner.py:5150] Model loading took 5.2 GiB memory and 3.412 seconds",
            Progress("measuring memory"),
        ),
        (
            "(EngineCore pid=8) INFO [kv_cache_utils.py:2327] CPU KV cache size: 131,072 tokens, ...",
            Progress("warming up"),
        ),
        (
            "Capturing CUDA graphs (decode, FULL): | 1/7 \rCapturing CUDA graphs (decode, FULL): | 2/7 \r",
            Progress("capturing CUDA graphs (2/7)", 2 / 7),
        ),
        (
            "INFO [gpu_model_runner.py:6582] Graph capturing finished in 4 secs, took 0.52 GiB",
            Progress("CUDA graphs captured", 1.0),
        ),
        (
            "INFO [core.py:402] init engine (profile, create kv cache, warmup model) took 0.27 s",
            Progress("starting the server"),
        ),
        (
            "(APIServer pid=1) INFO [entry.py:140] Starting vLLM server on http://127.0.0.1:18432",
            Progress("starting the server"),
        ),
        ("INFO:     Application startup complete.", Progress("ready", 1.0)),
        ("INFO [loggers.py:335] Engine 000: Avg prompt throughput: 1.1 tokens/s", None),
        ("Loading safetensors checkpoint shards: | 0/0", Progress("loading weights (0/0)")),
        ("", None),
    ],
)
def test_the_log_tells_how_far_the_load_has_come(line: str, progress: Progress | None) -> None:
    assert vllm.progress_of(line) == progress
