"""`python -m docs.tools.drawing`: docs/assets/rooms.*.svg, the packages of harness/ and their direction.

Rows are the ranks of tests/test_architecture.py: a room imports its own row and those below. The picture has its own
background, so that it can be read on a light and on a dark page.
"""

from collections.abc import Iterator
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"
ROOMS: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (("cli", "commands: parser, terminal; alone prints", "命令：解析与终端；只有它打印"),),
    (
        (
            "api",
            "the functions of `import harness`; commands are adapters of them",
            "`import harness` 的函数；命令是其上的一层",
        ),
    ),
    (
        ("execution", "a run, from start to files", "一次运行：从启动到文件"),
        ("comparison", "A against B, gates", "A 与 B，门禁"),
        ("tuning", "studies", "调优"),
        ("importers", "other tools' results", "其他工具的结果"),
        ("doctor", "checks of the machine", "检查机器"),
        ("selfcheck", "the reference server", "参考服务器"),
    ),
    (
        ("engines", "start, watch, ask, stop", "启动、看护、询问、停止"),
        ("simulator", "an NPU engine, computed", "模拟 NPU 引擎"),
        ("kernels", "parent of kernels_bench", "kernels_bench 的父进程"),
        ("export", "metrics to collectors", "把指标发往收集端"),
    ),
    (
        ("client", "sends, stamps, journal", "发送、打戳、日志"),
        ("telemetry", "server, NPUs, host", "服务端、NPU、主机"),
        ("analysis", "records → summary", "记录 → 汇总"),
    ),
    (("workload", "what is sent, and when", "发什么，何时发"), ("results", "the files of a result", "结果文件")),
    (("scenario", "YAML → checked values", "YAML → 已校验的值"), ("statistics", "pure arithmetic", "纯计算")),
    (
        ("messages", "sentences, en and zh", "句子：英文与中文"),
        ("plugins", "kinds of other packages", "其他软件包带来的种类"),
        ("safety", "secrets, signals, bounds", "机密、信号、界限"),
    ),
)
LOOSE = "errors · units · clock · seeds"
BESIDE = (
    ("reports", "summary + frames → page; only draws", "汇总 + 数据表 → 页面；只绘图"),
    ("kernels_bench", "torch only; in the engine's interpreter", "只用 torch；在引擎的解释器里"),
)
WIDTH, ROW, HEIGHT, LEFT, RIGHT = 790, 74, 56, 20, 620
STYLE = """<style>
.page{fill:#ffffff;stroke:#d0d7de}.room{fill:#eef2ff;stroke:#6366f1}.beside{fill:#ecfdf5;stroke:#059669}
.name{fill:#1f2328;font-weight:700;font-size:13px}.what{fill:#57606a;font-size:11px}.arrow{stroke:#57606a;fill:none}
.tip{fill:#57606a}
@media (prefers-color-scheme: dark){.page{fill:#1e2129;stroke:#444c56}.room{fill:#2b3050;stroke:#818cf8}
.beside{fill:#12352b;stroke:#34d399}.name{fill:#f0f3f6}.what{fill:#b1bac4}.arrow{stroke:#b1bac4}.tip{fill:#b1bac4}}
</style>"""


def main() -> None:
    """Write the drawing in both languages."""
    for number, language in enumerate(("en", "zh"), 1):
        (ASSETS / f"rooms.{language}.svg").write_text(drawn(number), encoding="utf-8")


def drawn(language: int) -> str:
    """The SVG; `language` is the place of the description in an entry."""
    height = ROW * (len(ROOMS) + 1) + 30
    title = ("", "The rooms of harness, imports downward", "harness 的各个包，导入只能向下")[language]
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            "font-family=\"Helvetica, Arial, 'Noto Sans CJK SC', 'WenQuanYi Zen Hei', sans-serif\">"
        ),
        f"<title>{title}</title>{STYLE}",
        f'<rect class="page" x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="8"/>',
        *_rooms(language),
        *_beside(language),
        *_arrow(height),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _rooms(language: int) -> Iterator[str]:
    for row, rooms in enumerate(ROOMS):
        width = (RIGHT - LEFT + 10) / len(rooms)
        for place, room in enumerate(rooms):
            x = LEFT + place * width
            yield _box("room", (x, 20 + row * ROW), width - 10, room[0], room[language])
    what = ("", "used by everyone, import no one", "人人可用，不导入任何包")[language]
    yield _box("room", (LEFT, 20 + len(ROOMS) * ROW), RIGHT - LEFT, LOOSE, what)


def _beside(language: int) -> Iterator[str]:
    for row, (name, english, chinese) in zip((0, 2), BESIDE, strict=True):
        yield _box("beside", (RIGHT + 16, 20 + row * ROW), WIDTH - RIGHT - 54, name, (english, chinese)[language - 1])


def _box(kind: str, corner: tuple[float, float], width: float, name: str, what: str) -> str:
    x, y = corner
    middle = x + width / 2
    lines = _wrapped(what, int(width / (6 if what.isascii() else 11)))
    text = "".join(
        f'<text class="what" x="{middle:.0f}" y="{y + 36 + 13 * line:.0f}" text-anchor="middle">{part}</text>'
        for line, part in enumerate(lines)
    )
    return (
        f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{HEIGHT}" rx="6"/>'
        f'<text class="name" x="{middle:.0f}" y="{y + 20:.0f}" text-anchor="middle">{name}</text>{text}'
    )


def _wrapped(text: str, most: int) -> list[str]:
    """A text in at most two lines, parted at a space or a comma near its middle where it is too long for one."""
    if len(text) <= most:
        return [text]
    places = [place for place, sign in enumerate(text) if sign in " ，；、"]
    at = min(places, key=lambda place: abs(place - len(text) / 2), default=len(text) // 2) + 1
    return [text[:at].strip(), text[at:].strip()]


def _arrow(height: int) -> Iterator[str]:
    x = WIDTH - 22
    yield f'<path class="arrow" stroke-width="2" d="M{x} 30V{height - 34}"/>'
    yield f'<path class="tip" d="M{x - 6} {height - 36}h12l-6 12z"/>'


if __name__ == "__main__":
    main()
