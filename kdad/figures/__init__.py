"""Figures of runs: `python -m kdad.figures <kind> <folders>`. Each module's `draw_*` makes one, `style` writes them."""
