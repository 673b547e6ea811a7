"""What vLLM says of itself: the engine that is awake."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.frame import framed
from monitoring.dashboards.panels import AnyPanel, Steps, bars, lines, stat
from monitoring.dashboards.promql import MODEL, grown, per_second, percentiles, ratio, select

ENGINES: Final = 'job="engines"'
"""In what is called the same for the gateway."""


def board() -> Dashboard:
    """Build it."""
    return framed(
        "engines",
        "engines",
        "What vLLM says of itself. Only an engine that is awake is asked; other engines than vLLM "
        "have other series, or none.",
        (
            ("Now", _now()),
            ("Latency", _latency()),
            ("Throughput", _throughput()),
            ("Saturation", _saturation()),
            ("Caches", _caches()),
            ("Requests", _requests()),
            ("Process", _process()),
        ),
    )


def _now() -> list[AnyPanel]:
    return [
        stat(
            "Engine",
            "Whether Prometheus reaches the engine that is awake.",
            f"max by (model) ({select('up', ENGINES, MODEL)})",
            legend="{{model}}",
            texts={0: ("no answer", "red"), 1: ("up", "green")},
            none="none awake",
        ),
        stat("Running", "Requests in its batch.", _sum("vllm:num_requests_running")),
        stat(
            "Waiting",
            "Requests that it has taken, and that are not in its batch yet.",
            _sum("vllm:num_requests_waiting"),
            steps=((1, "orange"), (8, "red")),
        ),
        stat(
            "KV cache",
            "In use. Near 100 % requests wait, or are preempted.",
            f"max({select('vllm:kv_cache_usage_perc', MODEL)})",
            unit="percentunit",
            steps=((0.9, "orange"), (0.98, "red")),
        ),
        stat(
            "Preemptions",
            "In the time that is shown: requests whose cache was given to others, to be computed "
            "again.",
            f"sum(increase({select('vllm:num_preemptions_total', MODEL)}[$__range]))",
            steps=((1, "orange"),),
        ),
        stat(
            "Prefix cache",
            "Share of prompt tokens that were there already, in the time that is shown.",
            ratio(
                f"sum(increase({select('vllm:prefix_cache_hits_total', MODEL)}[$__range]))",
                f"sum(increase({select('vllm:prefix_cache_queries_total', MODEL)}[$__range]))",
            ),
            unit="percentunit",
            none="nothing asked",
        ),
    ]


def _latency() -> list[AnyPanel]:
    return [
        _quantiles(
            "First token",
            "From the engine having the request to its first token.",
            "vllm:time_to_first_token_seconds",
            steps=((10, "red"),),
        ),
        _quantiles("Between tokens", "Of all answers.", "vllm:inter_token_latency_seconds"),
        _quantiles(
            "Time for each further token",
            "Mean of a request, after its first token.",
            "vllm:request_time_per_output_token_seconds",
        ),
        _quantiles("Whole answer", "In the engine.", "vllm:e2e_request_latency_seconds"),
        _quantiles("In its queue", "Before the batch.", "vllm:request_queue_time_seconds", width=8),
        _quantiles(
            "Prefill", "The prompt is computed.", "vllm:request_prefill_time_seconds", width=8
        ),
        _quantiles(
            "Decode", "The answer is generated.", "vllm:request_decode_time_seconds", width=8
        ),
    ]


def _throughput() -> list[AnyPanel]:
    return [
        lines(
            "Tokens",
            "Tokens a second: prompts that were computed, and answers.",
            [
                (_rate("vllm:prompt_tokens_total"), "{{model}} in"),
                (_rate("vllm:generation_tokens_total"), "{{model}} out"),
            ],
            width=8,
        ),
        lines(
            "Where prompts came from",
            "Tokens a second: computed, or found in a cache.",
            [(_rate("vllm:prompt_tokens_by_source_total", "source"), "{{source}}")],
            width=8,
            stacked=True,
        ),
        lines(
            "Tokens for each step",
            "Mean. More of them use the device better.",
            [
                (
                    ratio(
                        _rate("vllm:iteration_tokens_total_sum"),
                        _rate("vllm:iteration_tokens_total_count"),
                    ),
                    "{{model}}",
                )
            ],
            width=8,
        ),
    ]


def _saturation() -> list[AnyPanel]:
    return [
        lines(
            "Running and waiting",
            "Requests in the engine.",
            [
                (_by("vllm:num_requests_running"), "{{model}} running"),
                (_by("vllm:num_requests_waiting"), "{{model}} waiting"),
            ],
        ),
        lines(
            "Why they wait",
            "`capacity`: no room in the cache or the batch; `deferred`: they wait for something "
            "else, such as a grammar.",
            [(_by("vllm:num_requests_waiting_by_reason", "reason"), "{{reason}}")],
        ),
        lines(
            "KV cache",
            "Share in use.",
            [(f"max by (model) ({select('vllm:kv_cache_usage_perc', MODEL)})", "{{model}}")],
            unit="percentunit",
            steps=((0.9, "orange"), (0.98, "red")),
            most=1,
        ),
        bars(
            "Preemptions and rejections",
            "Requests whose cache was given to others; requests that the engine did not take.",
            [
                (grown("vllm:num_preemptions_total", "model", MODEL), "{{model}} preempted"),
                (grown("vllm:admission_rejections_total", "reason", MODEL), "rejected: {{reason}}"),
            ],
        ),
    ]


def _caches() -> list[AnyPanel]:
    return [
        lines(
            "Prefix cache",
            "Share of prompt tokens that were there already.",
            [(_share("vllm:prefix_cache"), "{{model}}")],
            unit="percentunit",
            most=1,
        ),
        lines(
            "Image cache",
            "Share of images that were there already.",
            [(_share("vllm:mm_cache"), "{{model}}")],
            unit="percentunit",
            most=1,
        ),
    ]


def _requests() -> list[AnyPanel]:
    return [
        lines(
            "How they ended",
            "`length`: the limit of tokens was reached; `abort`: the client left.",
            [(_rate("vllm:request_success_total", "finished_reason"), "{{finished_reason}}")],
            unit="reqps",
            width=8,
            stacked=True,
        ),
        _quantiles(
            "Tokens of a prompt", "Length.", "vllm:request_prompt_tokens", unit="short", width=8
        ),
        _quantiles(
            "Tokens of an answer",
            "Length.",
            "vllm:request_generation_tokens",
            unit="short",
            width=8,
        ),
    ]


def _process() -> list[AnyPanel]:
    return [
        lines(
            "HTTP answers",
            "By status, as its server counts them.",
            [(per_second("http_requests_total", "status", ENGINES, MODEL), "{{status}}")],
            unit="reqps",
            width=8,
        ),
        lines(
            "RAM",
            "Of the engine's server process.",
            [(select("process_resident_memory_bytes", ENGINES, MODEL), "{{model}}")],
            unit="bytes",
            width=8,
        ),
        lines(
            "Sleep",
            "As the engine says it. The gateway believes it only after a look at the device.",
            [(_by("vllm:engine_sleep_state", "sleep_state"), "{{sleep_state}}")],
            width=8,
            stacked=True,
        ),
    ]


def _quantiles(
    title: str,
    about: str,
    series: str,
    *,
    unit: str = "s",
    steps: Steps = (),
    width: int = 12,
) -> AnyPanel:
    queries = percentiles(series, 0.5, 0.95, 0.99)
    return lines(title, about, queries, unit=unit, steps=steps, width=width)


def _rate(series: str, by: str = "model") -> str:
    return per_second(series, by, MODEL)


def _share(cache: str) -> str:
    return ratio(_rate(f"{cache}_hits_total"), _rate(f"{cache}_queries_total"))


def _by(series: str, by: str = "model") -> str:
    return f"sum by ({by}) ({select(series, MODEL)})"


def _sum(series: str) -> str:
    return f"sum({select(series, MODEL)})"
