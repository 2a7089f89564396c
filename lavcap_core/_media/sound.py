"""Decodes one audio track into a 16 kHz mono waveform that stands where the track's timestamps put it."""

from __future__ import annotations

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.filter import Graph
from av.packet import Packet
from numpy.typing import NDArray

from lavcap_core._media.files import Failure

_RATES = range(1000, 6_144_001)
# Timestamps in some containers are rounded to milliseconds; gaps below this are no gaps.
_GAP = 0.05


def _mono(frame: AudioFrame, rate: int) -> Graph:
    """FFmpeg's resampler and mono downmix, with weights that sum to 1.

    Without ``rematrix_maxval`` swresample doesn't normalise the weights of float samples, and equal stereo channels
    come out 3 dB louder than in a 16-bit file. Channels of unknown places are averaged.
    """
    graph = Graph()
    count = frame.layout.nb_channels
    source = graph.add_abuffer(
        sample_rate=frame.sample_rate, format=frame.format.name, layout=frame.layout.name, time_base=frame.time_base
    )
    nodes = [source]
    if frame.layout.name == f"{count} channels":
        nodes.append(graph.add("pan", "mono|c0=" + "+".join(f"{1 / count}*c{i}" for i in range(count))))
    nodes.append(graph.add("aresample", f"{rate}:ochl=mono:osf=flt:rematrix_maxval=1"))
    nodes.append(graph.add("abuffersink"))
    graph.link_nodes(*nodes).configure()
    return graph


class Sound:
    """Waveform of one track.

    Args:
        stream: the track.
        zero: time in the track's clock at which the waveform begins, in seconds.
        limit: seconds that are wanted at most.
        rate: samples per second of the waveform.
    """

    def __init__(self, stream: AudioStream, zero: float, limit: float, rate: int) -> None:
        self._stream = stream
        self._zero = zero
        self._rate = rate
        self._limit = round(limit * rate)
        self._chunks: list[NDArray[np.float32]] = []
        self._graph: Graph | None = None
        self._shape: tuple[object, ...] = ()
        self._next: int | None = None
        self._shift = 0
        self.errors = 0
        self.packets = 0
        self.decoded = False

    @property
    def empty(self) -> bool:
        """Whether there is no sample."""
        return not self._chunks

    @property
    def end(self) -> float:
        """Seconds of waveform."""
        return max(0, self._next or 0) / self._rate

    def feed(self, packet: Packet[AudioStream] | None) -> None:
        """Decodes a packet; None ends the track."""
        self.packets += packet is not None
        if self._stream.codec_context is None:
            return
        try:
            for frame in self._stream.codec_context.decode(packet):
                self._resample(frame)
                self.decoded = True
        except av.EOFError:
            return
        except Failure:
            self.errors += 1

    def finish(self) -> None:
        """Takes what the decoder and the resampler still hold."""
        self.feed(None)
        self._close_graph()

    def window(self, start: float, seconds: float) -> NDArray[np.float32] | None:
        """Samples [seconds * rate] from a time on, silence where the track has none; None for an empty track."""
        if self.empty:
            return None
        if len(self._chunks) > 1:
            self._chunks = [np.concatenate(self._chunks)]
        first, count = round(start * self._rate), round(seconds * self._rate)
        found = self._chunks[0][first : first + count]
        waveform = np.zeros(count, np.float32)
        waveform[: len(found)] = np.clip(np.nan_to_num(found), -1, 1)
        return waveform

    def _resample(self, frame: AudioFrame) -> None:
        if frame.sample_rate not in _RATES:
            raise ValueError(f"{frame.sample_rate} samples per second")
        frame.time_base = frame.time_base or self._stream.time_base
        shape = (frame.sample_rate, frame.format.name, frame.layout.name, frame.time_base)
        if shape != self._shape or self._graph is None:
            self._close_graph()
            self._graph, self._shape = _mono(frame, self._rate), shape
        self._graph.push(frame)
        self._pull()

    def _close_graph(self) -> None:
        if self._graph is not None:
            self._graph.push(None)
            self._pull()
            self._graph = None

    def _pull(self) -> None:
        while self._graph is not None:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(frame, AudioFrame)
            self._place(
                frame.to_ndarray().reshape(-1).astype(np.float32, copy=False),
                frame.time if frame.pts is not None else None,
            )

    def _place(self, samples: NDArray[np.float32], time: float | None) -> None:
        position = self._position(time)
        if self._next is None or position - self._next > _GAP * self._rate:
            self._append(np.zeros(min(max(0, position - max(0, self._next or 0)), self._limit), np.float32), 0)
            self._next = position
        elif self._next - position > _GAP * self._rate:
            # The clock was set back (joined files); what follows is played on from here.
            self._shift += self._next - position
        self._append(samples, self._next)
        self._next += len(samples)

    def _position(self, time: float | None) -> int:
        if time is None:
            return self._next or 0
        return round((time - self._zero) * self._rate) + self._shift

    def _append(self, samples: NDArray[np.float32], position: int) -> None:
        kept = samples[max(0, -position) : max(0, self._limit - position)]
        if len(kept):
            self._chunks.append(kept)
