"""What comes of readable files: which frames, which samples, which windows."""

import itertools
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lavcap_core import media
from lavcap_core._media import files, pictures
from lavcap_core.media import FRAME_RULE, SAMPLE_RATE, Request, read, windows
from lavcap_core.testing.clips import numbered_picture, read_number, tone, write_clip, write_picture

FOUR = Request(frames=4, image_size=32)
B_FRAMES = {"bf": "2", "preset": "medium", "x264-params": "scenecut=0"}


def numbers(clip):
    return [read_number(frame) for frame in clip.frames]


def expected(times, start, seconds, count):
    """The frame rule, written as it is told."""
    wanted = [start + i * seconds / count for i in range(count)]
    return [max([0, *(n for n, time in enumerate(times) if time <= t + 0.0005)]) for t in wanted]


def correlation(waveform, start, seconds):
    """How much a part of a waveform is like the tone that `write_clip` writes."""
    part = waveform[round(start * SAMPLE_RATE) : round((start + seconds) * SAMPLE_RATE)]
    basis = np.exp(2j * np.pi * 440 * np.arange(len(part)) / SAMPLE_RATE)
    return abs(part @ basis) / (0.25 * len(part))


def test_video_with_sound_gives_both(tmp_path):
    recording = read(write_clip(tmp_path / "clip.mp4", 2), FOUR)
    (clip,) = recording.windows
    assert (recording.status, recording.reason, recording.seconds, recording.duration) == ("ok", None, 2.0, 2.0)
    assert clip.frames.shape == (4, 32, 32, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.waveform.shape == (32000,)
    assert clip.waveform.dtype == np.float32
    assert numbers(clip) == [0, 5, 10, 15]
    assert correlation(clip.waveform, 0.1, 1.8) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov", "avi", "ts", "webm", "flv"])
def test_containers(tmp_path, ending):
    codecs = {"webm": ("libvpx-vp9", "libopus", 48000), "avi": ("mpeg4", "libmp3lame", 44100)}
    video, audio, rate = codecs.get(ending, ("libx264", "aac", 44100))
    clip = write_clip(tmp_path / f"clip.{ending}", 2, video=video, audio=audio, rate=rate)
    recording = read(clip, Request(frames=3, image_size=32))
    (window,) = recording.windows
    assert recording.status == "ok"
    assert recording.seconds == pytest.approx(2, abs=0.11)
    # The tracks of some containers begin a few milliseconds apart.
    assert np.abs(np.subtract(numbers(window), expected(np.arange(20) / 10, 0, recording.seconds, 3))).max() <= 1
    assert correlation(window.waveform, 0.2, 1.6) == pytest.approx(1, abs=0.1)


def test_frame_rule_at_constant_rate(tmp_path):
    assert FRAME_RULE == 1
    clip = write_clip(tmp_path / "clip.mp4", 4, fps=30, audio=None, options=B_FRAMES)
    (window,) = read(clip, Request(frames=8, image_size=48)).windows
    assert numbers(window) == [0, 15, 30, 45, 60, 75, 90, 105]
    (window,) = read(clip, Request(frames=7, image_size=48)).windows
    assert numbers(window) == [0, 17, 34, 51, 68, 85, 102]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_frame_rule_at_variable_rate(tmp_path, ending):
    times = [0, 0.1, 0.15, 0.9, 1.0, 2.2, 2.9]
    recording = read(write_clip(tmp_path / f"clip.{ending}", 3, times=times), Request(frames=6, image_size=32))
    assert recording.seconds == pytest.approx(3, abs=0.03)
    assert numbers(recording.windows[0]) == [0, 2, 4, 4, 4, 5]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(steps=[0.02, 0.02, 0.1, 1.3, 1.3], keyframes=5, count=2, start=2.6, window=2.0, bframes=True)
@given(
    steps=st.lists(st.sampled_from([0.02, 0.04, 0.1, 0.5, 1.3]), min_size=3, max_size=40),
    keyframes=st.integers(1, 15),
    count=st.integers(1, 6),
    start=st.sampled_from([0.0, 0.7, 2.6]),
    window=st.sampled_from([2.0, 10.0]),
    bframes=st.booleans(),
)
def test_frame_rule_holds_however_frames_lie(tmp_path, steps, keyframes, count, start, window, bframes):
    times = list(itertools.accumulate(steps, initial=0.0))
    clip = write_clip(
        tmp_path / "any.mp4", times=times, audio=None, keyframes=keyframes, options=B_FRAMES if bframes else None
    )
    if times[-1] <= start + 0.1:
        return
    request = Request(audio=False, frames=count, image_size=48, start=start, window=window, hop=window)
    recording = read(clip, request)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures.Pictures, "SKIP", False)
        sequential = read(clip, request)
    for one, other in zip(recording.windows, sequential.windows, strict=True):
        assert numbers(one) == expected(times, one.start, one.seconds, count)
        assert (one.frames == other.frames).all()


def test_skipping_decodes_less(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", 20, keyframes=5, audio=None)
    request = Request(audio=False, frames=4, image_size=32, window=20, hop=20)
    decoded = {}
    original = pictures.Pictures._decode
    for skip in (True, False):
        fed = []
        monkeypatch.setattr(pictures.Pictures, "SKIP", skip)
        monkeypatch.setattr(pictures.Pictures, "_decode", lambda self, p, fed=fed: (fed.append(p), original(self, p)))
        assert numbers(read(clip, request).windows[0]) == [0, 50, 100, 150]
        decoded[skip] = sum(packet is not None for packet in fed)
    assert decoded[True] < 20
    assert decoded[False] > 145


def test_only_chosen_frames_are_converted(tmp_path, monkeypatch):
    made = []
    original = pictures.render
    monkeypatch.setattr(pictures, "render", lambda *args: made.append(args) or original(*args))
    read(write_clip(tmp_path / "clip.mp4", 3), FOUR)
    assert len(made) == 4
    made.clear()
    read(write_clip(tmp_path / "slow.mp4", times=[0, 1.5], audio=None), FOUR)
    assert len(made) == 1


def quadrants(_):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return picture


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation(tmp_path, rotation):
    clip = write_clip(tmp_path / "clip.mp4", 0.5, picture=quadrants, rotation=rotation, audio=None)
    frame = read(clip, Request(frames=1, image_size=40)).windows[0].frames[0].astype(int)
    corners = [[frame[10, 10], frame[10, 30]], [frame[30, 10], frame[30, 30]]]
    wanted = np.rot90(np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (0, 0, 0)]]), rotation // 90)
    assert np.abs(np.array(corners) - wanted).max() < 40


def test_mirrored_by_the_display_matrix(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 0.5, picture=quadrants, audio=None)
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert data[at : at + 4] == (1 << 16).to_bytes(4, "big")
    data[at : at + 4] = (-(1 << 16)).to_bytes(4, "big", signed=True)
    clip.write_bytes(data)
    frame = read(clip, Request(frames=1, image_size=40)).windows[0].frames[0].astype(int)
    assert np.abs(frame[10, 10] - (0, 255, 0)).max() < 40
    assert np.abs(frame[10, 30] - (255, 0, 0)).max() < 40


def test_short_side_is_scaled_and_the_centre_cropped(tmp_path):
    ramp = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    wide, high = write_picture(tmp_path / "wide.png", ramp), write_picture(tmp_path / "high.png", np.rot90(ramp))
    request = Request(frames=1, image_size=32)
    frame = read(wide, request).windows[0].frames[0, :, :, 0].astype(float)
    # 128 x 64 becomes 64 x 32, of which columns 16 to 47 stay: the middle of column c lies at 2 (16 + c) + 0.5.
    assert np.abs(frame - (2 * (2 * (16 + np.arange(32)) + 0.5))[None]).max() <= 2
    assert np.abs(read(high, request).windows[0].frames[0, :, :, 0] - np.rot90(frame)).max() <= 1


def test_no_audio_track(tmp_path):
    recording = read(write_clip(tmp_path / "clip.mp4", 2, audio=None), FOUR)
    assert recording.status == "ok"
    assert recording.windows[0].waveform is None
    assert numbers(recording.windows[0]) == [0, 5, 10, 15]


SOUNDS = [
    ("wav", "pcm_u8", 11025, "mono"),
    ("wav", "pcm_s16le", 44100, "stereo"),
    ("wav", "pcm_s24le", 44100, "5.1"),
    ("wav", "pcm_f32le", 96000, "stereo"),
    ("wav", "pcm_s16le", 8000, "7.1"),
    ("flac", "flac", 44100, "stereo"),
    ("mp3", "libmp3lame", 22050, "stereo"),
    ("ogg", "libopus", 48000, "stereo"),
    ("m4a", "aac", 48000, "5.1"),
    ("aac", "aac", 44100, "mono"),
]


@pytest.mark.parametrize(("ending", "codec", "rate", "layout"), SOUNDS)
def test_sound_alone(tmp_path, ending, codec, rate, layout):
    clip = write_clip(tmp_path / f"clip.{ending}", 2, video=None, audio=codec, rate=rate, layout=layout)
    recording = read(clip, FOUR)
    (window,) = recording.windows
    assert recording.status == "ok"
    assert window.frames is None
    assert recording.seconds == pytest.approx(2, abs=0.05)
    assert len(window.waveform) == round(window.seconds * SAMPLE_RATE)
    # AAC drops the LFE channel of a high tone, which then lacks in the mix; all others keep the level of one channel.
    assert correlation(window.waveform, 0.2, 1.6) == pytest.approx(1, abs=0.25 if layout == "5.1" else 0.1)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 11])
def test_channels_are_averaged(tmp_path, channels):
    samples = np.zeros((8000, channels))
    samples[:, 0] = 0.5
    soundfile.write(tmp_path / "clip.wav", samples, 16000)
    waveform = read(tmp_path / "clip.wav").windows[0].waveform
    weights = {1: 1, 2: 1 / 2, 3: 1 / 3, 6: 1 / 6, 11: 1 / 11}
    assert waveform[1000:7000] == pytest.approx(0.5 * weights[channels], abs=1e-3)


def test_16_khz_mono_is_kept_exactly(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, 20000).astype(np.float32)
    soundfile.write(tmp_path / "clip.wav", samples, 16000, subtype="FLOAT")
    assert (read(tmp_path / "clip.wav").windows[0].waveform == samples).all()


def test_waveform_stays_within_bounds(tmp_path):
    samples = np.array([0.5, np.nan, np.inf, -np.inf, 3, -3] * 1000, np.float32)
    soundfile.write(tmp_path / "clip.wav", samples, 16000, subtype="FLOAT")
    waveform = read(tmp_path / "clip.wav").windows[0].waveform
    assert waveform[:6].tolist() == [0.5, 0, 1, -1, 1, -1]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp"])
def test_picture_with_sound(tmp_path, ending):
    sound = write_clip(tmp_path / "clip.flac", 12, video=None, audio="flac")
    picture = write_picture(tmp_path / f"picture.{ending}", numbered_picture(777, 200, 160))
    recording = read(sound, FOUR, image=picture)
    assert [(clip.start, clip.seconds) for clip in recording.windows] == [(0, 10), (10, 2)]
    assert [numbers(clip) for clip in recording.windows] == [[777] * 4] * 2
    assert len(recording.windows[1].waveform) == 2 * SAMPLE_RATE


def test_picture_stands_for_the_video(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 2)
    picture = write_picture(tmp_path / "picture.png", numbered_picture(777))
    (window,) = read(clip, FOUR, image=picture).windows
    assert numbers(window) == [777] * 4
    (window,) = read(clip, Request(audio=False, frames=2, image_size=32), image=picture).windows
    assert window.waveform is None
    assert window.seconds == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif"])
def test_picture_alone(tmp_path, ending):
    path = tmp_path / f"picture.{ending}"
    if ending == "gif":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("gif", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
            frame = av.VideoFrame.from_ndarray(numbered_picture(777), format="rgb24").reformat(format="gray")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    else:
        write_picture(path, numbered_picture(777))
    recording = read(path, FOUR)
    (window,) = recording.windows
    assert (recording.status, recording.seconds, window.seconds, window.waveform) == ("ok", 10, 10, None)
    assert numbers(window) == [777] * 4


@pytest.mark.parametrize(("ending", "codec"), [("mp3", "libmp3lame"), ("m4a", "aac")])
def test_cover_is_no_video(tmp_path, ending, codec):
    path = tmp_path / f"clip.{ending}"
    with av.open(str(path), "w", format="mp4" if ending == "m4a" else ending) as container:
        track = container.add_stream(codec, rate=44100, layout="stereo")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(numbered_picture(1), format="rgb24").reformat(format="yuvj420p")
        container.mux(cover.encode(picture) + cover.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(1), format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = 44100, Fraction(1, 44100), 0
        container.mux(track.encode(frame) + track.encode(None))
    with av.open(str(path)) as container:
        assert container.streams.video
    recording = read(path, FOUR)
    assert recording.status == "ok"
    assert recording.windows[0].frames is None
    assert recording.seconds == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_later_sound_is_preceded_by_silence(tmp_path, ending):
    (window,) = read(write_clip(tmp_path / f"clip.{ending}", 2, delays=(0, 0.5)), FOUR).windows
    assert np.abs(window.waveform[: round(0.45 * SAMPLE_RATE)]).max() < 0.01
    assert correlation(window.waveform, 0.55, 1.9) == pytest.approx(1, abs=0.05)
    assert numbers(window) == expected(np.arange(20) / 10, 0, window.seconds, 4)


def test_later_video_shows_its_first_frame_before(tmp_path):
    (window,) = read(write_clip(tmp_path / "clip.mp4", 2, delays=(0.7, 0)), FOUR).windows
    assert window.seconds == pytest.approx(2.7, abs=0.05)
    assert numbers(window) == expected(np.arange(20) / 10 + 0.7, 0, window.seconds, 4)
    assert correlation(window.waveform, 0.05, 1.9) == pytest.approx(1, abs=0.05)
    assert np.abs(window.waveform[round(2.1 * SAMPLE_RATE) :]).max() < 0.01


def test_negative_timestamps_count_from_the_first(tmp_path):
    muxer = {"avoid_negative_ts": "disabled", "mpegts_copyts": "1"}
    clip = write_clip(tmp_path / "clip.ts", 2, delays=(-0.5, -0.5), muxer=muxer)
    with av.open(str(clip)) as container:
        assert container.streams.video[0].start_time < 0
    (window,) = read(clip, FOUR).windows
    assert numbers(window) == expected(np.arange(20) / 10 + 2090 / 90000, 0, window.seconds, 4)
    assert correlation(window.waveform, 0.1, 1.8) == pytest.approx(1, abs=0.05)


def test_an_edit_list_hides_the_beginning(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 2, delays=(-0.5, -0.5), muxer={"avoid_negative_ts": "disabled"})
    recording = read(clip, Request(frames=3, image_size=32))
    assert recording.seconds == pytest.approx(1.5, abs=0.03)
    assert numbers(recording.windows[0]) == [5, 10, 15]


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("start", [1.0, 7.3])
def test_start(tmp_path, ending, start):
    clip = write_clip(tmp_path / f"clip.{ending}", 12, options=B_FRAMES)
    recording = read(clip, Request(frames=3, image_size=32, start=start, limit=3, window=2, hop=2))
    assert [(clip.start, clip.seconds) for clip in recording.windows] == [(start, 2), (start + 2, 1)]
    begin = 2090 / 90000 if ending == "ts" else 0
    for window in recording.windows:
        assert numbers(window) == expected(np.arange(120) / 10 + begin, window.start, window.seconds, 3)
        assert correlation(window.waveform, 0, window.seconds) == pytest.approx(1, abs=0.05)
    assert (recording.status, recording.seconds) == ("ok", 3)
    assert recording.duration == pytest.approx(12, abs=0.1)


@pytest.mark.parametrize(("ending", "codec"), [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac")])
def test_start_of_sound_is_exact_to_half_a_sample(tmp_path, ending, codec):
    rising = (np.arange(8 * 44100) / (8 * 44100)).astype(np.float32) * tone(8, channels=1)[0]
    clip = write_clip(tmp_path / f"clip.{ending}", audio=codec, video=None, layout="mono", sound=rising[None])
    whole = read(clip).windows[0].waveform
    part = read(clip, Request(start=4.5, limit=2)).windows[0].waveform
    assert len(part) == 2 * SAMPLE_RATE
    assert np.abs(part - whole[round(4.5 * SAMPLE_RATE) :][: len(part)]).max() < 0.5 * np.pi * 440 / SAMPLE_RATE + 0.005


def test_seeking_that_misses_falls_back(tmp_path, monkeypatch):
    from lavcap_core._media import scan

    clip = write_clip(tmp_path / "clip.mp4", 8)
    request = Request(frames=2, image_size=32, start=3, limit=2)
    right = read(clip, request)
    monkeypatch.setattr(scan, "_seek", lambda container, time: container.seek(6_000_000))
    missed = read(clip, request)
    assert numbers(missed.windows[0]) == numbers(right.windows[0]) == [30, 40]
    assert np.abs(missed.windows[0].waveform - right.windows[0].waveform).max() < 0.05


def test_limit_bounds_what_is_read(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", 120, muxer={"movflags": "faststart"}, options={"crf": "1"})
    taken = []

    class Counted(files.LocalFile):
        def __init__(self, path):
            super().__init__(path)
            inner = self.read
            self.read = lambda count: taken.append(inner(count)) or taken[-1]

    monkeypatch.setattr(files, "LocalFile", Counted)
    recording = read(clip, Request(frames=2, image_size=32, limit=5))
    assert (recording.status, recording.seconds) == ("ok", 5)
    assert recording.duration == pytest.approx(120, abs=0.1)
    assert numbers(recording.windows[0]) == [0, 25]
    assert sum(map(len, taken)) < clip.stat().st_size / 4


def test_a_short_track_does_not_make_the_other_be_read_to_its_end(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mkv", 60, sound=tone(1))
    seen = []
    original = pictures.Pictures.feed
    monkeypatch.setattr(pictures.Pictures, "feed", lambda self, p: seen.append(p) or original(self, p))
    recording = read(clip, Request(frames=2, image_size=32, limit=5))
    assert len(seen) < 120
    assert np.abs(recording.windows[0].waveform[-SAMPLE_RATE:]).max() == 0


def test_windows_of_a_long_file(tmp_path):
    recording = read(write_clip(tmp_path / "clip.mp4", 7.5), Request(frames=2, image_size=32, window=3, hop=3))
    assert [(clip.start, clip.seconds) for clip in recording.windows] == [(0, 3), (3, 3), (6, pytest.approx(1.5))]
    assert [numbers(clip) for clip in recording.windows] == [[0, 15], [30, 45], [60, 67]]
    assert [len(clip.waveform) for clip in recording.windows] == [48000, 48000, 24000]


def test_overlapping_windows(tmp_path):
    recording = read(write_clip(tmp_path / "clip.mp4", 6), Request(frames=2, image_size=32, window=4, hop=1))
    assert [numbers(clip) for clip in recording.windows] == [[0, 20], [10, 30], [20, 40]]


def test_windows():
    def plan(length, **settings):
        return windows(Request(**settings), length)

    assert plan(10.004) == [(0, 10)]
    assert plan(10.999) == [(0, 10)]
    assert plan(11) == [(0, 10), (10, 1)]
    assert plan(0.2) == [(0, 0.2)]
    assert plan(20, hop=5) == [(0, 10), (5, 10), (10, 10)]
    assert plan(25, hop=20) == [(0, 10), (20, 5)]


@given(st.floats(0.01, 1000), st.floats(0.5, 30), st.floats(0.5, 40))
def test_windows_lie_within_the_file(length, window, hop):
    found = windows(Request(window=window, hop=hop), length)
    assert all(start + seconds <= length + 1e-6 and 0 < seconds <= window for start, seconds in found)
    assert all(seconds >= min(1, window) or len(found) == 1 for _, seconds in found)
    if hop <= window:
        assert length - sum(found[-1]) < 1 + 1e-6


def test_very_short_clips(tmp_path):
    recording = read(write_clip(tmp_path / "clip.mp4", 0.2), FOUR)
    assert (recording.status, len(recording.windows), recording.seconds) == ("ok", 1, pytest.approx(0.2, abs=0.05))
    assert numbers(recording.windows[0]) == [0, 0, 1, 1]


def test_a_file_that_declares_no_length_is_read_by_its_real_one(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", 5, muxer={"live": "1"}, audio=None)
    with av.open(str(clip)) as container:
        assert container.duration is None
    recording = read(clip, FOUR)
    assert (recording.status, recording.seconds) == ("ok", pytest.approx(5, abs=0.05))
    assert numbers(recording.windows[0]) == expected(np.arange(50) / 10, 0, recording.seconds, 4) == [0, 12, 25, 37]


def test_only_what_is_wanted_is_given(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 2)
    assert read(clip).windows[0].frames is None
    assert read(clip, Request(audio=False, frames=2)).windows[0].waveform is None


@pytest.mark.parametrize(
    "wrong", [{"window": 0}, {"hop": -1}, {"limit": float("inf")}, {"start": -1}, {"frames": -1}, {"audio": False}]
)
def test_requests_that_make_no_sense(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"above 0|not below 0|wants"):
        read(tmp_path / "clip.mp4", Request(**wrong))


def test_reading_is_repeatable(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 3, options=B_FRAMES)
    one, other = read(clip, FOUR).windows[0], read(clip, FOUR).windows[0]
    assert (one.frames == other.frames).all()
    assert (one.waveform == other.waveform).all()


def test_ffmpeg_is_only_loaded_to_read():
    code = "import sys, lavcap_core.media; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert media.__doc__
