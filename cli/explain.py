"""`traceloop explain NAME`: shows the documentation's page about a finding, an alert, or another subject."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from difflib import get_close_matches

import click
from click.shell_completion import CompletionItem

from .pages import GROUPS, Page, names_of, pages, rendered

_WIDEST = 100


def _completed(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    named = [(name, page.title) for page in pages() for name in (page.name, *page.alerts)]
    return [CompletionItem(name, help=title) for name, title in named if name.startswith(incomplete)]


@click.command("explain")
@click.argument("name", required=False, shell_complete=_completed)
def command(name: str | None) -> None:
    """Explain a finding of the report, or an alert: what it means, what it rests on, what to do.

    NAME is that of the finding (blocking-call), of the alert (AsyncioLoopBlocked), or of another page of the
    documentation. Without it the command lists them all. The pages come with the package: nothing is looked up on
    the network.

    \b
    traceloop explain blocking-call
    traceloop explain AsyncioLoopBlocked
    traceloop explain reading-a-report
    """
    every = pages()
    if not every:
        raise click.ClickException("this installation of traceloop has no pages (traceloop/docs is missing)")
    page = None if name is None else _page(name, every)
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    for line in rendered(page, every, width) if page is not None else _listed(every):
        click.echo(line)


def _page(name: str, every: list[Page]) -> Page:
    known = names_of(every)
    by_case = {each.casefold(): page for each, page in reversed(known.items())}
    page = known.get(name) or by_case.get(name.casefold())
    if page is not None:
        return page
    shown = {each.casefold(): each for page in every for each in (page.name, *page.alerts)}
    near = get_close_matches(name.casefold(), shown, 3, 0.5)
    near += [each for each in shown if name.casefold() in each and each not in near]
    hint = f"did you mean {_either([shown[each] for each in near[:3]])}?" if near else "traceloop explain lists all"
    raise click.UsageError(f"there is no page about {name!r}; {hint}")


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _listed(every: list[Page]) -> Iterator[str]:
    longest = max(len(name) for page in every for name in (page.name, *page.alerts))
    for _, group in GROUPS:
        yield click.style(group, bold=True)
        for page in every:
            if page.group == group:
                for name in page.alerts or (page.name,):
                    yield f"    {name:<{longest}}  {page.title}"
        yield ""
    yield "traceloop explain NAME shows one of them."
