"""A run's parameters as a table: groups, names and meanings as lib/config.py has them, and the values that ran."""
import html
import inspect
import re
from dataclasses import asdict

from lib.config import NOT_BEHAVIOUR, RunConfig
from lib.presets import preset_config

LINE = re.compile(r"^    # (?P<group>.+)$|^    (?P<name>\w+): .*?  # (?P<meaning>.+)$", re.MULTILINE)


def parameters_table(config: RunConfig) -> str:
    """The parameters as HTML, folded; those that are not as in the preset `plain` stand out. Every value is escaped."""
    usual, rows, changed = asdict(preset_config("plain")), [], 0
    for match in LINE.finditer(inspect.getsource(RunConfig)):
        if match["group"]:
            rows.append(f'<tr><th scope="rowgroup" colspan="3">{match["group"]}</th></tr>')
            continue
        name, value = match["name"], getattr(config, match["name"])
        said = html.escape(repr(value))
        if name not in NOT_BEHAVIOUR and value != usual[name]:
            changed += 1
            said = f"<strong>{said}</strong>"
        rows.append(f"<tr><td>{name}</td><td>{said}</td><td>{html.escape(match['meaning'])}</td></tr>")
    return (f'<details class="parameters"><summary>The parameters that ran; in bold, {changed} that the preset '
            '<code>plain</code> has otherwise</summary><div class="scroll" tabindex="0" role="region" '
            'aria-label="Parameters"><table><thead><tr><th>parameter</th><th>value</th><th>meaning</th></tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div></details>")
