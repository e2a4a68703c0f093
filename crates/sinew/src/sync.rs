//! Who goes, and who waits.
