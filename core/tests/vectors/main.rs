//! The golden vectors: every wire format as files in this folder, also for other languages.
//!
//! Each module reads the file of its name and compares the crate with it. `protocol` compares the documentation with
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
