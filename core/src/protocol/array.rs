//! Builds the server's messages from encoded objects. Objects are copied unread, except for the header of an object
//! that gets an extra field for one session.

use serde::Serialize;

use super::Encoding;

/// Appends an array of encoded objects to `bytes`.
pub fn write_array<'a>(bytes: &mut Vec<u8>, objects: impl ExactSizeIterator<Item = &'a [u8]>, encoding: Encoding) {
    let mut array = ArrayWriter::new(bytes, objects.len(), encoding);
    for object in objects {
        array.object(object);
    }
    array.end();
}

/// Writes an array, object by object.
#[derive(Debug)]
pub struct ArrayWriter<'b> {
    bytes: &'b mut Vec<u8>,
    encoding: Encoding,
    /// Whether no object was written yet.
    first: bool,
}

impl<'b> ArrayWriter<'b> {
    /// Begins an array of exactly `len` objects.
    pub fn new(bytes: &'b mut Vec<u8>, len: usize, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => bytes.push(b'['),
            // The three headers of an array in the MessagePack specification: fixarray, array 16 and array 32.
            Encoding::MsgPack => match len as u32 {
                len @ 0..=15 => bytes.push(0x90 | len as u8),
                len @ 16..=0xffff => {
                    bytes.push(0xdc);
                    bytes.extend_from_slice(&(len as u16).to_be_bytes());
                }
                len => {
                    bytes.push(0xdd);
                    bytes.extend_from_slice(&len.to_be_bytes());
                }
            },
        }
        Self { bytes, encoding, first: true }
    }

    /// Appends an object unchanged.
    pub fn object(&mut self, object: &[u8]) {
        self.separate();
        self.bytes.extend_from_slice(object);
    }

    /// Appends an object that replaces `conflated` older ones. It must have fewer than 65,535 fields.
    pub fn conflated(&mut self, object: &[u8], conflated: u32) {
        self.extended(object, "conflated", &conflated);
    }

    /// Appends an alert that matches the subscriptions with these names. It must have fewer than 65,535 fields.
    pub fn alert(&mut self, object: &[u8], subs: &[&str]) {
        self.extended(object, "subs", &subs);
    }

    /// Ends the array.
    pub fn end(self) {
        if self.encoding == Encoding::Json {
            self.bytes.push(b']');
        }
    }

    fn separate(&mut self) {
        if !std::mem::take(&mut self.first) && self.encoding == Encoding::Json {
            self.bytes.push(b',');
        }
    }

    /// Appends an object with one more field.
    fn extended(&mut self, object: &[u8], name: &str, value: &impl Serialize) {
        self.separate();
        match (self.encoding, object) {
            (Encoding::Json, [fields @ .., b'}']) => {
                self.bytes.extend_from_slice(fields);
                self.bytes.push(b',');
                self.put(&name);
                self.bytes.push(b':');
                self.put(value);
                self.bytes.push(b'}');
            }
            // The headers of a map in the MessagePack specification: fixmap up to 15 fields, then map 16.
            (Encoding::MsgPack, [header @ 0x80..=0x8e, fields @ ..]) => {
                self.bytes.push(header + 1);
                self.put_msgpack(fields, name, value);
            }
            (Encoding::MsgPack, [0x8f, fields @ ..]) => {
                self.bytes.extend_from_slice(&[0xde, 0, 16]);
                self.put_msgpack(fields, name, value);
            }
            (Encoding::MsgPack, [0xde, high, low, fields @ ..]) => {
                self.bytes.push(0xde);
                self.bytes.extend_from_slice(&(u16::from_be_bytes([*high, *low]) + 1).to_be_bytes());
                self.put_msgpack(fields, name, value);
            }
            _ => self.bytes.extend_from_slice(object),
        }
    }

    fn put_msgpack(&mut self, fields: &[u8], name: &str, value: &impl Serialize) {
        self.bytes.extend_from_slice(fields);
        self.put(&name);
        self.put(value);
    }

    fn put(&mut self, value: &impl Serialize) {
        self.bytes.extend_from_slice(&self.encoding.write(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    fn written(object: &Value, conflated: u32, encoding: Encoding) -> Value {
        let (mut bytes, object) = (Vec::new(), encoding.write(object));
        let mut array = ArrayWriter::new(&mut bytes, 2, encoding);
        array.object(&object);
        array.conflated(&object, conflated);
        array.end();
        match encoding {
            Encoding::Json => serde_json::from_slice(&bytes).unwrap(),
            Encoding::MsgPack => rmp_serde::from_slice(&bytes).unwrap(),
        }
    }

    #[test]
    fn names_of_subscriptions_are_added_to_an_alert() {
        for encoding in Encoding::ALL {
            let (mut bytes, object) = (Vec::new(), encoding.write(&json!({ "T": "alert" })));
            let mut array = ArrayWriter::new(&mut bytes, 1, encoding);
            array.alert(&object, &["a \"quoted\" one", "ü"]);
            array.end();
            let read: Value = match encoding {
                Encoding::Json => serde_json::from_slice(&bytes).unwrap(),
                Encoding::MsgPack => rmp_serde::from_slice(&bytes).unwrap(),
            };
            assert_eq!(read, json!([{ "T": "alert", "subs": ["a \"quoted\" one", "ü"] }]), "{encoding:?}");
        }
    }

    #[test]
    fn conflated_field_is_added_to_objects_of_any_size() {
        for fields in [1, 14, 15, 16, 40] {
            let object: Map<String, Value> = (0..fields).map(|n| (format!("f{n}"), json!(n))).collect();
            let plain = Value::Object(object.clone());
            for encoding in Encoding::ALL {
                for conflated in [1, 300, u32::MAX] {
                    let mut more = object.clone();
                    more.insert("conflated".into(), json!(conflated));
                    assert_eq!(written(&plain, conflated, encoding), json!([object, more]), "{fields}, {encoding:?}");
                }
            }
        }
    }
}
