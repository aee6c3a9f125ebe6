"""The page: pictures dropped on it are judged by all detectors, beside each other. Needs gradio."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from PIL import Image

from kdad.app.batching import Batcher, BusyError
from kdad.app.examples import Example
from kdad.app.session import Session
from kdad.data.images import SUFFIXES
from kdad.errors import UserError
from kdad.inference.overlay import OPACITY
from kdad.inference.pictures import open_upload

HERE = Path(__file__).parent / "templates"
FORGET = (600, 3600)  # every ten minutes, uploaded files older than an hour are removed
THUMBNAIL = 320  # pixels


class Page:
    """A page for detectors of these names, all with thresholds."""

    def __init__(self, batchers: Mapping[str, Batcher], examples: Sequence[Example]):
        self.batchers = dict(batchers)
        rules = {batcher.detector.rule: name for name, batcher in batchers.items()}
        if len(rules) > 1:
            told = ", ".join(f"{name} by {rule.describe()}" for rule, name in rules.items())
            raise UserError(f"these detectors read a picture's values differently ({told}): give them a page each")
        self.rule = next(iter(rules))
        self.examples: list[tuple[str, Image.Image, str]] = []  # name, picture, what it truly is
        for example in examples:
            try:
                with example.path.open("rb") as file:
                    self.examples.append(
                        (example.path.name, open_upload(file, example.path.name, self.rule), example.truth)
                    )
            except (UserError, OSError):  # one less to choose from
                continue

    def mount(self, app: FastAPI, megabytes: float) -> FastAPI:
        """Serve the page at / of an application. Returns the application."""
        plain = ["system-ui", "sans-serif"]  # nothing is loaded from elsewhere
        theme = gr.themes.Default(primary_hue="teal", font=plain, font_mono=["ui-monospace", "monospace"])
        return gr.mount_gradio_app(
            app, self.build(), "/", theme=theme, css_paths=HERE / "page.css", js=(HERE / "page.js").read_text(),
            max_file_size=f"{megabytes:g}mb", footer_links=[], show_error=False, ssr_mode=False, pwa=False,
            run_history=False, enable_monitoring=False, mcp_server=False,
        )  # fmt: skip

    def build(self) -> gr.Blocks:
        """Return the page's blocks."""
        columns = [cell for name in self.batchers for cell in (f"{name}: score", "decision")]
        number = f"{len(self.batchers)} trained detector{'s' * (len(self.batchers) > 1)}"
        with gr.Blocks(title="kdad", analytics_enabled=False, delete_cache=FORGET) as blocks:
            session = gr.State(Session())
            gr.HTML(
                f"<h1>kdad</h1><p>{number}. Higher scores are more anomalous, from 0 to 1; a detector's own threshold "
                "lies at 0.5.</p>", elem_id="title",
            )  # fmt: skip
            with gr.Row(elem_id="top"):
                pictures = gr.File(
                    label="Drop pictures here, paste one, or pick some", file_count="multiple",
                    file_types=sorted(SUFFIXES), elem_id="pictures", height=170,
                )  # fmt: skip
                with gr.Column(min_width=280):
                    threshold = gr.Slider(
                        0.01, 0.99, 0.5, step=0.01, label="Threshold of scores and pixels", elem_id="threshold"
                    )
                    strength = gr.Slider(
                        0, 1, OPACITY, step=0.05, label="Heat over the photograph", elem_id="strength"
                    )  # fmt: skip
            remarks, shown = gr.HTML(elem_id="remarks"), gr.HTML(elem_id="shown")
            with gr.Column(visible=False, elem_id="judged") as judged:
                table = gr.Dataframe(
                    headers=["picture", *columns], datatype="str", interactive=False, wrap=True,
                    label="Judged so far, last first: choose a row to see it again", elem_id="table", buttons=[],
                )  # fmt: skip
                download = gr.HTML(elem_id="download")
            given = [session, threshold, strength]
            outputs = [session, remarks, shown, judged, table, download]
            pictures.upload(self.judge_files, [pictures, *given], [pictures, *outputs], api_visibility="private")
            gr.on(
                [threshold.change, strength.change], self.show, given, outputs, trigger_mode="always_last",
                show_progress="hidden", api_visibility="private",
            )  # fmt: skip
            table.select(self.choose, given, outputs, show_progress="hidden", api_visibility="private")
            if self.examples:
                gr.HTML("<h2>The hardest images of the first detector's own test: choose one</h2>", elem_id="heading")
                gallery = gr.Gallery(
                    [(make_thumbnail(picture), truth) for _, picture, truth in self.examples], columns=8,
                    label="Hardest images of the test", show_label=False, allow_preview=False, elem_id="examples",
                    height="auto", buttons=[], interactive=False, object_fit="cover",
                )  # fmt: skip
                gallery.select(self.judge_example, given, outputs, api_visibility="private")
        return blocks

    def judge_files(self, files: list[str] | None, session: Session, threshold: float, strength: float) -> list[Any]:
        """Judge uploaded files, and return the page with the last of them and what could not be read."""
        session.remarks.clear()
        for file in map(Path, files or ()):
            try:
                with file.open("rb") as stream:
                    self._judge(session, file.name, open_upload(stream, file.name, self.rule))
            except (UserError, BusyError) as error:
                session.remarks.append(str(error))
            finally:
                file.unlink(missing_ok=True)  # pictures of a production line need not stay on a disk
        return [None, *self.show(session, threshold, strength)]

    def judge_example(self, session: Session, threshold: float, strength: float, event: gr.SelectData) -> list[Any]:
        """Judge the example that was chosen, and return the page with it."""
        name, picture, truth = self.examples[event.index]
        session.remarks.clear()
        try:
            self._judge(session, f"{name} (truly {truth})", picture)
        except BusyError as error:
            session.remarks.append(str(error))
        return self.show(session, threshold, strength)

    def choose(self, session: Session, threshold: float, strength: float, event: gr.SelectData) -> list[Any]:
        """Return the page with the picture of the table's row that was chosen."""
        number = len(session.names) - 1 - event.index[0]  # the last one stands first
        if 0 <= number < len(session.names):
            session.shown = number
        return self.show(session, threshold, strength)

    def _judge(self, session: Session, name: str, picture: Image.Image) -> None:
        session.add(name, {key: batcher.judge(picture) for key, batcher in self.batchers.items()})

    def show(self, session: Session, threshold: float, strength: float) -> list[Any]:
        """Return what all parts of the page show, in the order of `build`'s outputs."""
        rows = session.list_rows(threshold)
        return [
            session, session.show_remarks(), session.show(threshold, strength), gr.update(visible=bool(rows)),
            rows or None, session.show_download(threshold),
        ]  # fmt: skip


def make_thumbnail(picture: Image.Image) -> Image.Image:
    """Return a small copy of a picture."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small
