//! A whole store, its clients and its faults in one thread, from one seed.
