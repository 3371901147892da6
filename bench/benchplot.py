"""A plot of the suite as SVG: one row a program, a bar for its speed over QEMU TCG, logarithmic, the class's goal as a tick."""
import math
from xml.sax.saxutils import escape

ROW, LEFT, WIDE, TOP = 16, 170, 640, 60


def plot(lines, goals):
    shown = [line for line in lines if line["ratio"] > 0]
    most = max([100, *(line["ratio"] for line in shown)])
    least = min([0.5, *(line["ratio"] for line in shown)])
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))

    def x(value):
        return LEFT + WIDE * (math.log10(value) - low) / (high - low)

    out, y, kind = [], TOP, None
    for line in shown:
        if line["class"] != kind:
            kind = line["class"]
            y += ROW // 2
            out.append(f'<text x="4" y="{y + 12}" font-weight="bold">{escape(kind)}</text>')
        ratio, goal = line["ratio"], goals.get(kind)
        one, end = x(1), x(ratio)
        colour = "#b03030" if ratio < 1 else "#3070b0" if goal is None or ratio < goal else "#308050"
        out.append(f'<text x="{LEFT - 6}" y="{y + 12}" text-anchor="end">{escape(line["program"])}</text>')
        out.append(f'<rect x="{min(one, end):.1f}" y="{y + 3}" width="{abs(end - one):.1f}" height="{ROW - 5}" fill="{colour}"/>')
        out.append(f'<text x="{max(one, end) + 4:.1f}" y="{y + 12}">{ratio:.1f}</text>')
        if goal:
            out.append(f'<line x1="{x(goal):.1f}" x2="{x(goal):.1f}" y1="{y}" y2="{y + ROW}" stroke="#202020" stroke-width="2"/>')
        y += ROW
    grid = []
    for power in range(low, high + 1):
        for digit in (1, 2, 5):
            value = digit * 10.0**power
            if value <= 10.0**high:
                grid.append(f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP - 4}" y2="{y}" stroke="#d8d8d8"/>'
                            f'<text x="{x(value):.1f}" y="{TOP - 8}" text-anchor="middle">{value:g}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDE + 60}" height="{y + 20}" '
            'font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n'
            '<text x="4" y="18" font-size="14">Times as fast as QEMU TCG, CPU time; black tick: the goal of the class</text>\n'
            '<text x="4" y="34">green: goal reached; blue: faster than QEMU; red: slower</text>\n'
            + "\n".join(grid + out) + "\n</svg>\n")
