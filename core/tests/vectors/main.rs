//! The golden vectors: every wire format as it is written down in this folder, for other languages as well.
//!
//! Each module reads the file of its name and holds the crate against it; `protocol` holds the documentation against
//! the files.

#[cfg(test)]
mod client_frames;
#[cfg(test)]
mod events;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod nodes;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod read;
#[cfg(test)]
mod ring;
#[cfg(test)]
mod server_frames;
