"""The lines of benchmarks/minilm_lines.py, on made-up times."""

from szilard.benchmarks.minilm_lines import EVERY_CASE, FP32, LINES, NBITS, judge, rows

SHARES = {FP32: 1.0, NBITS: 1.0, "int8": 0.5, "other int8": 0.6, "coarse": 0.30, "near": 0.36, "exact": 0.6}
QUALITY = {
    "coarse": {"cosine": 0.9986, "cosine_long": 0.9986},
    "near": {"cosine": 0.9993, "cosine_long": 0.9991},
    "exact": {"cosine": 0.9998, "cosine_long": 0.9998},
}


def judged(shares=SHARES, quality=QUALITY):
    seconds = {
        case: {name: [share * s for s in (1.0, 1.1, 1.2)] for name, share in shares.items()}
        for case in (*EVERY_CASE, "1x128", "8x128")
    }
    return judge(seconds, quality, list(quality), ["int8", "other int8"])


def test_each_line_takes_the_fastest_file_that_is_near_enough():
    found = judged()
    assert len(found) == sum(len(line.cases) for line in LINES)
    by_line = {(row["cosine"], row["case"]): row for row in rows(found)}
    first = by_line[0.9985, "1x16"]
    assert (first["file"], first["against"], first["verdict"]) == ("coarse", "int8", "goal")
    assert first["ratio"]["median"] == 0.6
    assert (by_line[0.999, "8x128"]["file"], by_line[0.999, "8x128"]["verdict"]) == ("near", "goal")
    assert (by_line[0.9996, "1x512"]["file"], by_line[0.9996, "1x512"]["against"]) == ("exact", NBITS)


def test_what_is_slower_or_farther_is_missed():
    assert {each.verdict for each in judged({**SHARES, "near": 0.4}) if each.line.cosine == 0.999} == {"met"}
    assert {each.verdict for each in judged({**SHARES, "near": 0.44}) if each.line.cosine == 0.999} == {"missed"}
    short = {**QUALITY, "near": {"cosine": 0.9993, "cosine_long": 0.9989}}
    assert {each.file for each in judged(quality=short) if each.line.cosine == 0.999} == {"exact"}
    none = rows(judged(quality={"coarse": QUALITY["coarse"]}))
    assert [row["file"] for row in none if row["cosine"] == 0.9996] == [""] * 4
    assert {row["verdict"] for row in none if row["cosine"] == 0.9996} == {"missed"}
