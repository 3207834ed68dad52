"""A row of the table of formats is one object: a copy of it, by copy or by pickle, in this process or another, is the row itself."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import pickle

import pytest
from helpers import ALL_FORMATS, SCALE_MODES

import mx_ops


@pytest.mark.parametrize("name", ALL_FORMATS)
def test_a_copied_row_is_the_row(name: str) -> None:
    """So it equals itself, for rows are compared by identity, and finds itself in a dict or a set."""
    row = mx_ops.FORMATS[name]
    copies = [copy.copy(row), copy.deepcopy({"row": [row]})["row"][0]]
    copies += [pickle.loads(pickle.dumps(row, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    assert all(one is row for one in copies)
    assert len({row, *copies}) == 1


def test_a_row_of_no_table_is_copied_by_its_facts() -> None:
    """It is not taken for the row of the table that has its name."""
    other = dataclasses.replace(mx_ops.FORMATS["mxfp4"], block_size=64)
    for one in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert one is not mx_ops.FORMATS["mxfp4"]
        assert dataclasses.astuple(one) == dataclasses.astuple(other)


def test_tables_are_copied_with_their_rows() -> None:
    """FORMATS and SCALE_MODES, whole."""
    for table in (mx_ops.FORMATS, mx_ops.SCALE_MODES):
        assert pickle.loads(pickle.dumps(table)) == copy.deepcopy(table) == table


def test_scale_modes_are_their_thresholds() -> None:
    """The values of SCALE_MODES say of a format which mantissas round its scale's exponent up."""
    assert list(mx_ops.SCALE_MODES) == SCALE_MODES
    thresholds = [mode(mx_ops.FORMATS["mxfp8_e4m3"]) for mode in mx_ops.SCALE_MODES.values()]
    assert thresholds == [0x7FFFFF, 0, 0x600000, 0x77FFFF]  # 448 is 1.75 times 2 to the 8; 15.5 / 8, halfway from 1.875 to 2, carries


def echo(tables: tuple, connection) -> None:
    """In another process: give back what was given, and whether its rows are those that this process has."""
    formats, modes = tables
    same = all(row is mx_ops.FORMATS[name] for name, row in formats.items()) and modes == mx_ops.SCALE_MODES
    connection.send((same, tables))


def test_a_spawned_process_takes_and_gives_rows() -> None:
    """By multiprocessing's pickles, into a process that imports the package anew."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=echo, args=((mx_ops.FORMATS, mx_ops.SCALE_MODES), there))
    process.start()
    assert here.poll(120), "the other process said nothing"
    same, (formats, modes) = here.recv()
    process.join()
    assert same
    assert formats == mx_ops.FORMATS
    assert modes == mx_ops.SCALE_MODES
