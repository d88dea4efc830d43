"""Airtimes against published values: SX1276 calculators, the Bluetooth and 802.15.4 maxima, Linux' frame durations."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from edge.meter.radio import ble, cellular, ethernet, ieee802154, lora, wifi
from edge.meter.radio.air import lora_rate, receive, send
from firmware_profiles.load import list_radios, load_radio
from firmware_profiles.radio_schema import Lora, Phy


def phy(name: str) -> Phy:
    found = load_radio(name).phy
    assert found is not None
    return found


def lora_phy(name: str) -> Lora:
    found = phy(name)
    assert isinstance(found, Lora)
    return found


# ---------------------------------------------------------------- LoRa


@pytest.mark.parametrize(
    ("factor", "payload", "ms"), [(7, 23, 61.7), (12, 23, 1482.8), (12, 64, 2793.5)], ids=["SF7", "SF12", "SF12 long"]
)
def test_lora_agrees_with_the_public_calculators(factor: int, payload: int, ms: float) -> None:
    """125 kHz, 4/5, explicit header, CRC, 8 symbols of preamble: AN1200.13, as the TTN calculators have it."""
    assert 1000 * lora.time_on_air_s(payload, spreading_factor=factor, bandwidth_hz=125_000) == pytest.approx(
        ms, abs=0.05
    )


def test_lora_by_hand() -> None:
    """SF7, 125 kHz, PL 23: symbols of 1.024 ms; (184 - 28 + 28 + 16) / 28 -> 8 blocks of 5; 12.25 + 8 + 40 symbols."""
    assert lora.time_on_air_s(23, spreading_factor=7, bandwidth_hz=125_000) == pytest.approx(60.25 * 1.024e-3)


def test_lora_options_change_the_bits_that_they_stand_for() -> None:
    """Coding rate 4/8: 8 blocks of 8 symbols. No header and no CRC: (184 - 28 + 28 - 20) / 28 -> 6 blocks of 5."""
    settings = dict(spreading_factor=7, bandwidth_hz=125_000.0)
    symbol = 1.024e-3
    assert lora.time_on_air_s(23, coding_rate=4, **settings) == pytest.approx((20.25 + 64) * symbol)  # type: ignore[arg-type]
    bare = lora.time_on_air_s(23, explicit_header=False, crc=False, **settings)  # type: ignore[arg-type]
    assert bare == pytest.approx((20.25 + 30) * symbol)


def test_lora_never_takes_less_than_eight_symbols_of_payload() -> None:
    assert lora.time_on_air_s(0, spreading_factor=12, bandwidth_hz=500_000, crc=False) == pytest.approx(
        20.25 * 2**12 / 5e5
    )


EU868 = [
    # data rate, ms at the largest payload, frames and ms of 119 bytes, mandatory silence in s, mJ at 13 dBm
    (0, 2793.5, 3, 7561, 749, 724),
    (1, 1560.6, 3, 4108, 407, 393),
    (2, 698.4, 3, 1890, 187, 181),
    (3, 676.9, 2, 862, 85, 83),
    (4, 655.9, 1, 390, 39, 37),
    (5, 368.9, 1, 220, 22, 21),
    (6, 184.4, 1, 110, 11, 11),
]


@pytest.mark.parametrize("row", EU868)
def test_eu868_data_rates(row: tuple[int, float, int, int, int, int]) -> None:
    rate, largest_ms, frames, ms, silence_s, mj = row
    eu868 = lora_phy("lora-eu868")
    factor, bandwidth, room = lora_rate(eu868, rate)
    largest = lora.time_on_air_s(room + lora.LORAWAN_BYTES, spreading_factor=factor, bandwidth_hz=bandwidth)
    assert 1000 * largest == pytest.approx(largest_ms, abs=0.05)
    message = send(eu868, 119, data_rate=rate)
    assert message.frames == frames
    assert round(1000 * message.transmit_s) == ms
    assert round(99 * message.transmit_s) == silence_s
    assert round(1000 * message.transmit_s * 0.029 * 3.3) == mj


@pytest.mark.parametrize(("rate", "ms"), [(0, 371), (1, 390), (2, 400), (3, 400), (4, 177)])
def test_us915_data_rates_keep_the_dwell_time(rate: int, ms: int) -> None:
    us915 = lora_phy("lora-us915")
    factor, bandwidth, room = lora_rate(us915, rate)
    largest = send(us915, room, data_rate=rate)
    assert largest.frames == 1
    assert round(1000 * largest.transmit_s) == ms
    assert us915.dwell_ms is not None
    assert 1000 * largest.transmit_s <= us915.dwell_ms.value
    assert bandwidth in {125e3, 500e3}
    assert 7 <= factor <= 10


def test_a_region_has_no_other_data_rates() -> None:
    with pytest.raises(ValueError, match="DR0 to DR6, not DR7"):
        send(lora_phy("lora-eu868"), 10, data_rate=7)
    with pytest.raises(ValueError, match="only LoRa has a data rate"):
        send(phy("ble"), 10, data_rate=1)


def test_messages_are_cut_into_fragments_with_a_header_each() -> None:
    assert lora.fragments(51, 51) == (64,)
    assert lora.fragments(52, 51) == (51 + 13, 3 + 2 + 13)
    assert lora.fragments(98, 51) == (64, 64)
    with pytest.raises(ValueError, match="faster rate"):
        lora.fragments(3, 2)


def test_class_a_listens_twice_after_an_uplink() -> None:
    """DR5: 8 symbols of 1.024 ms, then 8 of SF12 at 125 kHz, 32.768 ms each."""
    assert send(lora_phy("lora-eu868"), 20).listen_s == pytest.approx(8 * (1.024e-3 + 32.768e-3))


def test_a_lora_downlink_comes_at_the_uplinks_rate_without_a_crc() -> None:
    """After an uplink at DR0 SF12 at 125 kHz; 119 bytes are 49 + 49 + 21 with 15 bytes around each."""
    expected = sum(lora.time_on_air_s(n + 15, spreading_factor=12, bandwidth_hz=125e3, crc=False) for n in (49, 49, 21))
    heard = receive(lora_phy("lora-eu868"), 119, data_rate=0)
    assert heard.receive_s == pytest.approx(expected)
    assert (heard.transmit_s, heard.frames) == (0, 3)
    assert receive(lora_phy("lora-eu868"), 119).frames == 1


def test_us915_answers_at_500_khz() -> None:
    """DR0 is SF10 at 125 kHz; the answer comes at DR10, SF10 at 500 kHz."""
    heard = receive(lora_phy("lora-us915"), 100, data_rate=0)
    expected = lora.time_on_air_s(113, spreading_factor=10, bandwidth_hz=500e3, crc=False)
    assert heard.receive_s == pytest.approx(expected)


# ---------------------------------------------------------------- 802.11

COLUMNS = [("b", 1, 1), ("b", 11, 2), ("g", 6, 6), ("g", 54, 24), ("n", 6.5, 6), ("n", 65, 24), ("ac", 390, 24)]
EXCHANGES = {
    52: (1698, 886, 330, 186, 334, 198, 190),
    225: (3082, 1012, 558, 210, 546, 218, 194),
    319: (3834, 1080, 686, 222, 662, 230, 194),
    520: (5442, 1226, 954, 254, 910, 254, 198),
}
"""us of DIFS, mean back-off, data, SIFS and acknowledgement: a TCP ACK; 10 x 10 logits as int8, float16, float32."""


@pytest.mark.parametrize("packet", EXCHANGES)
def test_wifi_exchanges(packet: int) -> None:
    found = [
        wifi.exchange(standard, packet, rate_mbit_per_s=rate, ack_rate_mbit_per_s=ack).total_us
        for standard, rate, ack in COLUMNS
    ]
    assert [math.floor(us + 0.5) for us in found] == list(EXCHANGES[packet])


@pytest.mark.parametrize("length", [24, 100, 1500])
@pytest.mark.parametrize("rate", [6, 12, 54])
def test_ofdm_frames_last_as_long_as_linux_says(rate: int, length: int) -> None:
    """ieee80211_frame_duration: 16 + 16 + 4 + 4 * ceil((16 + 8 * (len + 4) + 6) * 10 / (4 * rate in 100 kbit/s))."""
    linux = 16 + 16 + 4 + 4 * math.ceil((16 + 8 * (length + 4) + 6) * 10 / (4 * 10 * rate))
    assert wifi.STANDARDS["g"].sifs_us + wifi.frame_us("g", length + 4, rate) == linux


@pytest.mark.parametrize("rate", [1, 2, 5.5, 11])
def test_cck_frames_last_as_long_as_linux_says(rate: float) -> None:
    """10 (SIFS) + 192 (long preamble) + ceil(8 * (len + 4) * 10 / rate in 100 kbit/s)."""
    assert 10 + wifi.frame_us("b", 504, rate) == 10 + 192 + math.ceil(8 * 504 * 10 / (10 * rate))


def test_the_fixed_part_dominates_a_short_exchange_on_a_fast_link() -> None:
    """All but the data bits of a 225 byte packet at MCS 7: about 80 %."""
    whole = wifi.exchange("n", 225, rate_mbit_per_s=65, ack_rate_mbit_per_s=24)
    empty = wifi.exchange("n", 0, rate_mbit_per_s=65, ack_rate_mbit_per_s=24)
    assert 0.75 < empty.total_us / whole.total_us < 0.9


def test_receiving_swaps_data_and_acknowledgement() -> None:
    up, down = send(phy("wifi-2.4-good"), 225), receive(phy("wifi-2.4-good"), 225)
    assert (up.transmit_s, up.receive_s) == pytest.approx((78e-6, 34e-6))
    assert (down.receive_s, down.transmit_s) == pytest.approx((78e-6, 34e-6))
    assert up.total_s == pytest.approx(217.5e-6)
    assert up.frame_bytes == 225 + 54


# ---------------------------------------------------------------- BLE


@pytest.mark.parametrize(
    ("name", "short", "long", "empty", "pair"),
    [
        ("1M", 328, 2120, 80, 2500),
        ("2M", 168, 1064, 44, 1408),
        ("S2", 958, 4542, 462, 5304),
        ("S8", 2704, 17040, 720, 18060),
    ],
)
def test_ble_packets(name: str, short: int, long: int, empty: int, pair: int) -> None:
    """27 and 251 bytes of payload with a MIC; a pair is 251 bytes, the empty answer and two T_IFS."""
    assert [ble.packet_us(name, size) for size in (27, 251, 0)] == [short, long, empty]
    assert ble.packet_us(name, 251) + ble.packet_us(name, 0) + 2 * ble.INTER_FRAME_US == pair


@pytest.mark.parametrize(
    ("message", "pdu", "packets"),
    [(119, 251, 1), (244, 251, 1), (414, 251, 2), (119, 27, 6), (213, 27, 11), (414, 27, 21)],
)
def test_ble_notifications(message: int, pdu: int, packets: int) -> None:
    sizes = ble.notifications(message, pdu)
    assert len(sizes) == packets
    assert sum(sizes) == message + 7 * packets
    assert max(sizes) <= pdu


def test_a_ble_message_on_the_air() -> None:
    """119 bytes in one packet of 126: 1 + 4 + 2 + 126 + 4 + 3 bytes at 8 us; the answer 80 us; two T_IFS."""
    air = send(phy("ble"), 119)
    assert (air.transmit_s, air.receive_s, air.listen_s) == pytest.approx((1120e-6, 80e-6, 300e-6))


# ---------------------------------------------------------------- 802.15.4, cellular, Ethernet


def test_ieee802154_frames() -> None:
    assert ieee802154.frame_us(127) == 4256
    assert ieee802154.frame_us(ieee802154.ACK_BYTES) == 352
    assert ieee802154.frames(100, 36) == (127, 9 + 36)
    with pytest.raises(ValueError, match="at most 127"):
        ieee802154.frame_us(128)


def test_an_ieee802154_packet_on_the_air() -> None:
    """91 bytes fill one frame: 4256 us, an acknowledgement of 352 us, 1120 + 128 + 384 us of listening."""
    air = send(phy("ieee802154"), 91)
    assert (air.transmit_s, air.receive_s, air.listen_s) == pytest.approx((4256e-6, 352e-6, 1632e-6))
    assert (air.frames, air.frame_bytes) == (1, 127)


def test_ethernet_on_the_wire() -> None:
    """225 bytes of IP take 263 on the wire, 21.0 us at 100 Mbit/s; a short packet is padded to 46."""
    assert ethernet.wire_s(225, 100) == pytest.approx(21.04e-6)
    assert ethernet.wire_s(225, 100) * 100e6 / 8 == pytest.approx(263)
    assert ethernet.frame_bytes(40) == 64


def test_cellular_transfers_take_their_bits() -> None:
    assert cellular.transfer_s(119, overhead_bytes=6, rate_kbit_per_s=62) == pytest.approx(1000 / 62_000)
    assert send(phy("nb-iot"), 119).transmit_s < receive(phy("nb-iot"), 119).receive_s


@pytest.mark.parametrize("name", [name for name in list_radios() if load_radio(name).phy])
def test_more_bytes_never_take_less_air(name: str) -> None:
    times = [send(phy(name), size).total_s for size in range(1, 400)]
    assert all(before <= after for before, after in pairwise(times))
    assert times[0] > 0
