"""Which exporters of spans were asked for, and which spans they get.

The exporters are those of OTEL_TRACES_EXPORTER. Where that is not set, ``otlp`` is used if an OTLP endpoint was named,
else none: we send nothing to a receiver that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from traceloop.settings import Settings

from .extras import how_to_install
from .otlp.responses import shown_endpoint
from .otlp.sender import OtlpSender
from .otlp.settings import OtlpSettings
from .spans.sampling import Sampling
from .spans.sinks import SpanSink


def wanted_exporters(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Names of the exporters that were asked for, in OpenTelemetry's words."""
    if settings.spans == "off" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    names = [name.strip().lower() for name in environ.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()]
    if "none" in names:
        return []
    if not names:
        variables = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        named = settings.otlp_endpoint or any(environ.get(name, "").strip() for name in variables)
        names = ["otlp"] if named else []
    elif settings.otlp_endpoint and not any(name.startswith("otlp") for name in names):
        names.append("otlp")
    return list(dict.fromkeys(names))


def sampling_of(settings: Settings, environ: Mapping[str, str], notice: Callable[[str], None]) -> Sampling:
    """``--spans``; where that is left at ``all``, OTEL_TRACES_SAMPLER."""
    given = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    sampler = given.removeprefix("parentbased_")
    by_parent = sampler != given
    if settings.spans != "all" or not sampler or sampler == "always_on":
        return Sampling(settings.spans)
    if sampler == "always_off":
        return Sampling("slow", by_parent=True) if by_parent else Sampling("off")
    if sampler == "traceidratio":
        text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1.0"
        try:
            ratio = float(text)
        except ValueError:
            ratio = -1.0
        if 0 <= ratio <= 1:
            return Sampling(ratio, by_parent=by_parent)
        notice(f"OTEL_TRACES_SAMPLER_ARG: expected a ratio from 0 to 1, got {text!r}; keeping all spans")
    else:
        notice(f"OTEL_TRACES_SAMPLER={sampler} is not known here; keeping all spans")
    return Sampling("all")


def notice_of_default(
    settings: Settings, environ: Mapping[str, str], sampling: Sampling, notice: Callable[[str], None]
) -> None:
    """Prints where spans go that were not asked for: a variable that is meant for the application's own spans also gets
    ours, and by default every callback makes one.
    """
    if settings.spans_chosen or settings.otlp_endpoint or sampling.bound == 0 or sampling.off:
        return
    variables = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER")
    variable = next((name for name in variables if environ.get(name, "").strip()), "")
    if not variable:
        return
    where = shown_endpoint(environ[variable].strip())
    every = "every callback" if sampling.bound >> 64 else "every callback of a sampled trace"
    notice(
        f"{every} makes a span, sent to {where} ({variable}); --spans slow sends those of slow callbacks only, "
        "--spans off none"
    )


def make_sinks(settings: Settings, environ: Mapping[str, str], notice: Callable[[str], None]) -> list[SpanSink]:
    """The exporters that were asked for. One that cannot be made is reported by ``notice`` and left out."""
    sinks: list[SpanSink] = []
    wanted = wanted_exporters(settings, environ)
    given = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if settings.otlp_endpoint and not wanted and "none" in given:
        notice(f"no spans to {shown_endpoint(settings.otlp_endpoint)}: OTEL_TRACES_EXPORTER is {given}")
    elif not wanted and "none" in given and given != "none":
        notice(f"no spans are sent: OTEL_TRACES_EXPORTER is {given}, and none excludes the others")
    for name in wanted:
        try:
            protocol = (
                environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "").strip()
                or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip()
                or "http/protobuf"
            )
            if name == "otlp_proto_http" or (name == "otlp" and protocol == "http/protobuf"):
                sinks.append(OtlpSender(OtlpSettings.from_environ(environ, settings.otlp_endpoint, notice), notice))
                continue
            from .otel_sdk.sinks import SdkSink

            sinks.append(SdkSink(name, protocol, settings, environ, notice))
        except Exception as error:
            hint = how_to_install("otlp") if isinstance(error, ImportError) else ""
            notice(f"no spans to {name}: {error}{hint}")
    return sinks
