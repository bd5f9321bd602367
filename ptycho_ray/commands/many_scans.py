"""What the commands for many scans share: which scans, on how many workers, what is done already, and the table at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptycho_ray.commands.common import FOLDER, ReadingOptions, Result, tell
from ptycho_ray.commands.output import WritingOptions, folder_to_write
from ptycho_ray.commands.scan_list import folder_names, scans_of
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import InputError
from ptycho_ray.files import jsonable, write_json

if TYPE_CHECKING:
    from ptycho_ray.cluster.each_alone import Treatment

#: Scans up to which the terminal shows the whole table.
MOST_SHOWN = 20
#: Columns that it leaves out: they stand in the file, or were said when the scan was done.
NOT_SHOWN = ("refined_scan", "report", "seconds", "trusted", "verdict", "error", "plan")


@dataclass(kw_only=True)
class BatchOptions(ReadingOptions, WritingOptions):
    """Options of commands that treat many scans."""

    scans: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCAN|FOLDER|PATTERN|@LIST")]
    """Scans: files, folders of scans, patterns ('/data/*.h5'), and lists of these (@list.txt, one in a line)."""
    output_dir: Annotated[Path, FOLDER]
    """Output folder, with a sub-folder for each scan; every machine must have access to it. Scans that are done there are not
    done again."""
    workers: int | None = None
    """Number of workers, each with one scan or shard at a time; by default as many as the cluster has room for."""
    address: str | None = None
    """Ray cluster, as host:port or 'auto'; by default RAY_ADDRESS or, if unset, a cluster on this machine only."""
    cpus_per_device: int = 1
    """Processor cores per worker."""
    device: str = "auto"
    """Device of the workers: auto, cpu or cuda; 'auto' uses the GPUs of the cluster, if it has any."""
    gpu_share: float = 1.0
    """Share of a GPU per worker: with 0.25 four of them use one."""
    wait_for_nodes_s: float = 0.0
    """Seconds to wait for machines of an autoscaling cluster that has no room for the workers."""

    def execution(self, **more: Any) -> ExecutionConfig:
        """The settings that these options stand for; ConfigurationError if one is wrong."""
        return ExecutionConfig(
            address=self.address,
            devices=self.workers or "auto",
            cpus_per_device=self.cpus_per_device,
            accelerator=self.device,
            gpu_share=self.gpu_share,
            wait_for_nodes_s=self.wait_for_nodes_s,
            **more,
        )


def treat_all(
    options: BatchOptions,
    treatment: Callable[[], Treatment],
    execution: ExecutionConfig,
    settings: Mapping[str, Any],
    files: Mapping[str, Path],
    table: str,
) -> Result:
    """Treat the scans of ``options``, each alone, and write their lines into ``table`` in the output folder.

    Args:
        treatment: makes it, as soon as the options are known to be right.
        settings, files: on what results depend beside the scan; the way it is read is added.

    Returns:
        Counts, ``table``, ``scans`` and ``exit_code``: 1 if a scan failed, else 3 if an image is not to be trusted.

    Raises:
        InputError: folders hold results of something else, or the cluster cannot be used.
    """
    scans = scans_of(options.scans)
    if not scans:
        raise InputError(field="scans", found="none", expected="files, folders of scans, patterns or @list.txt")
    reading = options.reading.absolute()
    from ptycho_ray.cluster.done_marks import Mark, settings_print

    word = settings_print({**settings, "reading": reading.chosen()}, {**files, **reading.files()})
    folders = [options.output_dir / name for name in folder_names(scans)]
    others = [*files.values(), *reading.files().values()]
    lying_in: dict[Path, list[Path]] = {}
    for scan in scans:
        lying_in.setdefault(scan.absolute().parent, []).append(scan)
    for folder in folders:
        mark = Mark.read(folder)
        same = mark is not None and mark.settings == word
        inputs = [*others, *lying_in.get(folder.absolute(), [])]
        folder_to_write(folder, given=True, overwrite=options.overwrite, resume=same, inputs=inputs)
    tell(f"{len(scans)} scan{'' if len(scans) == 1 else 's'}")
    from ptycho_ray.cluster.each_alone import ScanToDo, treat_each
    from ptycho_ray.display.scans_progress import ScansProgress

    todo = [ScanToDo(path.absolute(), folder.absolute()) for path, folder in zip(scans, folders, strict=True)]
    options.output_dir.mkdir(parents=True, exist_ok=True)
    seen_by_all = {options.output_dir, *files.values(), *reading.files().values()}
    seen_by_all |= {scan.path.parent for scan in todo if scan.path.exists()}
    with contextlib.closing(ScansProgress(len(scans))) as progress, _say_how_to_go_on():
        common = sorted(path.absolute() for path in seen_by_all)
        lines = treat_each(todo, treatment(), word, execution, progress, common)
    failed = sum("error" in line for line in lines)
    doubtful = sum(line["exit_code"] == 3 for line in lines)
    result: Result = {
        "done": len(lines) - failed,
        "done_before": sum(line.get("done") == "before" for line in lines),
        "failed": failed,
        "not_trusted": doubtful,
        "table": options.output_dir / table,
        "scans": lines,
        "exit_code": 1 if failed else 3 if doubtful else 0,
    }
    write_json(options.output_dir / table, jsonable(result))
    return result


@contextlib.contextmanager
def _say_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command does the scans that are missing") from None


def as_text(result: Mapping[str, Any]) -> list[str]:
    """For people: the counts, and the table unless it is long, without what only programs want of it."""
    from ptycho_ray.commands.cli import as_text as entries

    shown = {name: value for name, value in result.items() if name not in ("scans", "exit_code")}
    rows = [
        {name: value for name, value in line.items() if name not in NOT_SHOWN} | {"scan": Path(line["scan"]).name}
        for line in result["scans"]
    ]
    return entries(shown | ({"scans": rows} if len(rows) <= MOST_SHOWN else {}))
