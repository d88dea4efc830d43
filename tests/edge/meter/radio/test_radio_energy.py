"""Joules of a radio, by hand."""

from __future__ import annotations

import pytest

from edge.meter.radio.energy import even_packets, radio_energy
from firmware_profiles.load import list_radios, load_radio


def test_an_idle_radio_draws_its_idle_power() -> None:
    idle = radio_energy(load_radio("wifi-2.4-good"), up={}, down={}, seconds=100)
    assert (idle.transmit_j, idle.receive_j, idle.idle_j) == pytest.approx((0, 0, 12.5))
    asleep = radio_energy(load_radio("wifi-2.4-good"), up={}, down={}, seconds=100, asleep=True)
    assert asleep.total_j == pytest.approx(10.0)


def test_wifi_by_hand() -> None:
    """Ten packets of 225 bytes, MCS 7: 78 us data, 34 us ACK, 105.5 us listening; 1.14 W, 0.94 W, 0.42 mJ a frame."""
    found = radio_energy(load_radio("wifi-2.4-good"), up={225: 10}, down={}, seconds=1)
    assert found.transmit_j == pytest.approx(10 * (78e-6 * 1.14 + 0.42e-3))
    assert found.receive_j == pytest.approx(10 * 139.5e-6 * 0.94)
    assert found.idle_j == pytest.approx(0.125 * (1 - 10 * 217.5e-6))
    assert (found.frames_sent, found.frames_received, found.sent_bytes) == (10, 0, 2790)
    assert found.active_j == pytest.approx(found.total_j - found.idle_j)
    assert found.above_idle_j == pytest.approx(found.total_j - 0.125 * 1)


def test_the_frame_outweighs_the_airtime_of_a_short_message() -> None:
    found = radio_energy(load_radio("wifi-2.4-good"), up={225: 1}, down={}, seconds=1)
    assert 0.5 * found.active_j < 0.42e-3


def test_receiving_pays_for_the_acknowledgement_it_sends() -> None:
    found = radio_energy(load_radio("wifi-2.4-good"), up={}, down={225: 1}, seconds=1)
    assert found.transmit_j == pytest.approx(34e-6 * 1.14)
    assert found.receive_j == pytest.approx((78e-6 + 105.5e-6) * 0.94 + 0.33e-3)


def test_a_radio_that_always_listens_costs_nothing_more_to_receive() -> None:
    found = radio_energy(load_radio("ieee802154"), up={}, down={91: 1}, seconds=1)
    assert found.active_j > 0
    assert found.above_idle_j == 0


def test_lora_costs_what_the_table_says() -> None:
    """119 bytes at DR0 and 13 dBm: 724 mJ of sending; the windows after each of three frames come on top."""
    found = radio_energy(load_radio("lora-eu868"), up={119: 1}, down={}, seconds=3600, data_rate=0)
    assert 1000 * found.transmit_j == pytest.approx(724, abs=0.5)
    assert found.receive_j == pytest.approx(3 * 8 * 2 * 32.768e-3 * 0.038)


def test_a_cellular_burst_has_a_tail() -> None:
    """NB-IoT: 119 + 6 bytes at 62 kbit/s and 0.543 W, then ten seconds at 0.09 W; the rest of the hour idle."""
    found = radio_energy(load_radio("nb-iot"), up={119: 1}, down={}, seconds=3600)
    assert found.transmit_j == pytest.approx(1000 / 62_000 * 0.543)
    assert found.receive_j == pytest.approx(0.9)
    twice = radio_energy(load_radio("nb-iot"), up={119: 2}, down={}, seconds=3600, bursts=2)
    assert twice.receive_j == pytest.approx(1.8)
    silent = radio_energy(load_radio("nb-iot"), up={}, down={}, seconds=3600)
    assert silent.receive_j == 0


def test_a_tail_ends_with_the_window() -> None:
    found = radio_energy(load_radio("nb-iot"), up={119: 1}, down={}, seconds=5)
    assert found.transmit_s + found.receive_s == pytest.approx(5)
    assert found.idle_j == 0


def test_more_air_than_time_leaves_nothing_to_idle() -> None:
    found = radio_energy(load_radio("lora-eu868"), up={222: 10}, down={}, seconds=1)
    assert found.idle_j == 0
    assert found.transmit_s > 1


def test_energy_adds_up_over_packets() -> None:
    radio = load_radio("wifi-2.4-fair")
    both = radio_energy(radio, up={100: 3, 500: 2}, down={52: 4}, seconds=10)
    parts = [
        radio_energy(radio, up={100: 3}, down={}, seconds=10),
        radio_energy(radio, up={500: 2}, down={}, seconds=10),
        radio_energy(radio, up={}, down={52: 4}, seconds=10),
    ]
    assert both.active_j == pytest.approx(sum(part.active_j for part in parts))


def test_a_bare_link_has_no_joules() -> None:
    with pytest.raises(ValueError, match="lossy-250k is a bare link"):
        radio_energy(load_radio("lossy-250k"), up={}, down={}, seconds=1)


@pytest.mark.parametrize("name", [name for name in list_radios() if load_radio(name).phy])
def test_every_radio_has_joules(name: str) -> None:
    found = radio_energy(load_radio(name), up={150: 1}, down={170: 1}, seconds=60)
    assert found.transmit_j > 0
    assert found.receive_j > 0


def test_totals_become_packets_as_alike_as_can_be() -> None:
    assert even_packets(1000, 3) == {333: 2, 334: 1}
    assert even_packets(1000, 4) == {250: 4}
    assert even_packets(0, 0) == {}
