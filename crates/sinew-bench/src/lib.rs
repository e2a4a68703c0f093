//! Measures every data-carrying mechanism between two real processes.
