"""A module with checks that its tests know, and checks that they forgot: see `test_machinery`."""
