"""Radio models: how long a packet is on the air, and what that costs. One file a radio family, all of them pure.

Everything here is modelled, never measured. `air` puts a packet on the air of any profiled radio
(`firmware_profiles.radio_schema`), `energy` turns packets and a window of time into joules.
"""
