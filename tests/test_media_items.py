"""Reading the clips of a manifest: stretches of time, folders of frames, ready features."""

import io

import numpy as np
import pytest

from lavcap_core.errors import DataError, MediaError
from lavcap_core.manifest import Item
from lavcap_core.media import SAMPLE_RATE, Request, read_item
from lavcap_core.testing.clips import numbered_picture, read_number, write_clip, write_picture

FOUR = Request(frames=4, image_size=32)


def numbers(clip):
    return [read_number(frame) for frame in clip.frames]


def wav(folder, seconds, name="clip.wav"):
    return str(write_clip(folder / name, seconds, video=None, audio="pcm_s16le"))


def pictures(folder, count, name="frames"):
    """Frame n shows the number 100 + n; the last two sort before others as texts."""
    (folder / name).mkdir()
    for number in range(count):
        write_picture(folder / name / f"frame{number}.png", numbered_picture(100 + number))
    return str(folder / name)


def vectors(folder, count, width=3, name="v.npy"):
    """Vector n is n, n, n."""
    np.save(folder / name, np.repeat(np.arange(count)[:, None], width, axis=1).astype(np.float16))
    return str(folder / name)


def test_end_bounds_what_is_read(tmp_path):
    clip = str(write_clip(tmp_path / "clip.mp4", 6))
    recording = read_item(Item(clip, "x", start=1.0, end=4.0), FOUR)
    (window,) = recording.windows
    assert (window.start, window.seconds, recording.seconds, recording.status) == (1.0, 3.0, 3.0, "ok")
    assert len(window.waveform) == 3 * SAMPLE_RATE
    assert numbers(window) == [10, 17, 25, 32]
    assert read_item(Item(clip, "x", end=99.0), FOUR).seconds == pytest.approx(6, abs=0.05)
    assert read_item(Item(clip, "x", end=4.0), Request(limit=2)).seconds == 2


def test_frames_are_sampled_by_the_frame_rule(tmp_path):
    sound = wav(tmp_path, 10.02)  # one window of 10 s, whose frames they are
    item = Item(sound, "x", frames=pictures(tmp_path, 20))
    shown = {count: read_item(item, Request(frames=count, image_size=32)).windows for count in (20, 4, 40, 3)}
    assert all(len(windows) == 1 for windows in shown.values())
    assert numbers(shown[20][0]) == list(range(100, 120))
    assert numbers(shown[4][0]) == [100, 105, 110, 115]
    assert numbers(shown[40][0]) == [100 + i // 2 for i in range(40)]
    assert numbers(shown[3][0]) == [100, 106, 113]
    assert len(shown[4][0].waveform) == 10 * SAMPLE_RATE


def test_frames_are_spread_over_all_windows(tmp_path):
    item = Item(wav(tmp_path, 12), "x", frames=pictures(tmp_path, 6))
    request = Request(frames=2, image_size=32, window=4, hop=4)
    assert [numbers(window) for window in read_item(item, request).windows] == [[100, 101], [102, 103], [104, 105]]
    # The limit cuts the clip, and its pictures with it.
    cut = read_item(item, Request(frames=2, image_size=32, window=4, hop=4, limit=4))
    assert [numbers(window) for window in cut.windows] == [[100, 101]]
    # Of a stretch, they show the stretch.
    stretch = read_item(Item(item.clip, "x", frames=item.frames, start=4.0, end=8.0), request)
    assert [(window.start, numbers(window)) for window in stretch.windows] == [(4.0, [100, 103])]


def test_frames_replace_the_video_and_may_stand_alone(tmp_path):
    folder = pictures(tmp_path, 2)
    (window,) = read_item(Item(str(write_clip(tmp_path / "clip.mp4", 2)), "x", frames=folder), FOUR).windows
    assert numbers(window) == [100, 100, 101, 101]
    (window,) = read_item(Item(None, "x", frames=folder), FOUR).windows
    assert (numbers(window), window.waveform, window.seconds) == ([100, 100, 101, 101], None, 10.0)
    long = read_item(Item(None, "x", frames=folder, start=5.0, end=25.0), FOUR)
    assert [(window.start, numbers(window)) for window in long.windows] == [(5.0, [100] * 4), (15.0, [101] * 4)]
    assert long.seconds == 20


def test_frames_by_a_pattern(tmp_path):
    for number in range(12):
        (tmp_path / f"frame_{number}").mkdir()
        write_picture(tmp_path / f"frame_{number}" / "dog.jpg", numbered_picture(number))
    (window,) = read_item(Item(None, "x", frames=str(tmp_path / "frame_*" / "dog.jpg")), FOUR).windows
    assert numbers(window) == [0, 3, 6, 9]


def test_frames_without_a_picture(tmp_path):
    (tmp_path / "notes.txt").touch()
    for place in (tmp_path, tmp_path / "gone", tmp_path / "*.jpg"):
        with pytest.raises(DataError, match="D004") as caught:
            read_item(Item(None, "x", frames=str(place)), FOUR)
        assert caught.value.problems[0].file == str(place)
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(MediaError) as broken:
        read_item(Item(None, "x", frames=str(tmp_path)), FOUR)
    assert broken.value.problems[0].file == str(tmp_path / "broken.png")


def test_features_are_read_where_they_are_wanted(tmp_path):
    item = Item(wav(tmp_path, 2), "x", visual_features=vectors(tmp_path, 20))
    (window,) = read_item(item, Request(visual_width=3)).windows
    assert window.visual_features.dtype == np.float32
    assert window.visual_features[:, 0].tolist() == list(range(20))
    assert len(window.waveform) == 2 * SAMPLE_RATE
    (window,) = read_item(item, Request()).windows
    assert window.visual_features is None


def test_features_alone_open_no_clip(tmp_path):
    item = Item("gone.mp4", "x", audio_features=vectors(tmp_path, 5), end=4.0)
    recording = read_item(item, Request(audio=False, audio_width=3))
    assert (recording.path, recording.seconds, len(recording.windows)) == ("gone.mp4", 4.0, 1)
    assert recording.windows[0].audio_features.shape == (5, 3)


def test_each_window_gets_its_features(tmp_path):
    item = Item(wav(tmp_path, 12), "x", visual_features=vectors(tmp_path, 6))
    request = Request(window=4, hop=4, visual_width=3)
    shares = [window.visual_features[:, 0].tolist() for window in read_item(item, request).windows]
    assert shares == [[0, 1], [2, 3], [4, 5]]
    (window,) = read_item(item, Request(window=4, hop=4, limit=4, visual_width=3)).windows
    assert window.visual_features[:, 0].tolist() == [0, 1]
    one = Item(item.clip, "x", visual_features=vectors(tmp_path, 1, name="one.npy"))
    assert [window.visual_features is None for window in read_item(one, request).windows] == [True, False, True]


def broken_features():
    archive, objects, whole = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(archive, a=np.zeros((2, 3)))
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    np.save(whole, np.zeros((2, 3)))
    return {
        "empty": b"",
        "text": b"hello",
        "npz": archive.getvalue(),
        "pickle": objects.getvalue(),
        "cut": whole.getvalue()[:-8],
    }


@pytest.mark.parametrize("kind", ["gone", "empty", "text", "npz", "pickle", "cut"])
def test_features_that_cannot_be_read(tmp_path, kind):
    path = tmp_path / "v.npy"
    if kind != "gone":
        path.write_bytes(broken_features()[kind])
    with pytest.raises(DataError, match="D001") as caught:
        read_item(Item(None, "x", visual_features=str(path)), Request(audio=False, visual_width=3))
    assert caught.value.problems[0].file == str(path)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3),
        np.zeros((1, 2, 3)),
        np.zeros((2, 4)),
        np.zeros((0, 3)),
        np.array([[0, np.nan, 0]]),
        np.array([[0, 1e300, 0]]),
        np.array([["a", "b", "c"]]),
        np.zeros((2, 3), complex),
    ],
    ids=str,
)
def test_features_of_another_shape(tmp_path, array):
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(DataError, match="D002"):
        read_item(Item(None, "x", audio_features=str(tmp_path / "v.npy")), Request(audio=False, audio_width=3))


def test_huge_features_are_refused_unread(tmp_path):
    with (tmp_path / "v.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**26, 3)})
        file.truncate(file.tell() + 2**26 * 12)  # sparse
    with pytest.raises(DataError, match="D002"):
        read_item(Item(None, "x", audio_features=str(tmp_path / "v.npy")), Request(audio=False, audio_width=3))


def test_nothing_that_is_wanted(tmp_path):
    features = vectors(tmp_path, 4)
    with pytest.raises(DataError, match="D003"):
        read_item(Item(None, "x", visual_features=features), FOUR)
    with pytest.raises(DataError, match="D003"):
        read_item(Item(wav(tmp_path, 1), "x"), Request(audio=False, visual_width=3))
