//! Base62 encoding of numbers, in the alphabet `0-9A-Za-z`, as used in API keys and service tokens.
//!
//! There is no decoder: keys and tokens are compared as text.

use zeroize::Zeroize;

/// Digits of a 256-bit number.
pub const U256_DIGITS: usize = 43;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Appends the lowest `width` digits of a big-endian number, left-padded with `0`.
///
/// Wipes the number, because it may be a secret.
pub fn push_digits(out: &mut String, number: &mut [u8], width: usize) {
    let mut digits = vec![0_u8; width];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u16;
        for byte in number.iter_mut() {
            let dividend = remainder << 8 | u16::from(*byte);
            // A remainder is below 62, so the quotient fits a byte and the next dividend 16 bits.
            *byte = (dividend / 62).to_le_bytes()[0];
            remainder = dividend % 62;
        }
        *digit = ALPHABET[usize::from(remainder)];
    }
    out.extend(digits.iter().map(|&digit| char::from(digit)));
    digits.zeroize();
    number.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(number: &[u8], width: usize) -> String {
        let mut out = String::new();
        push_digits(&mut out, &mut number.to_vec(), width);
        out
    }

    #[test]
    fn small_numbers_are_padded_with_zeros() {
        assert_eq!(digits(&[0], 6), "000000");
        assert_eq!(digits(&[61], 2), "0z");
        assert_eq!(digits(&[62], 2), "10");
        assert_eq!(digits(&u32::MAX.to_be_bytes(), 6), "4gfFC3");
    }

    #[test]
    fn the_largest_256_bits_fit_43_digits() {
        let all = digits(&[0xff; 32], U256_DIGITS);
        assert_eq!(all.len(), 43);
        assert_eq!(digits(&[0xff; 32], U256_DIGITS + 1), format!("0{all}"));
    }

    #[test]
    fn digits_agree_with_128_bit_arithmetic() {
        let number = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210_u128;
        let value = digits(&number.to_be_bytes(), 22).bytes().fold(0_u128, |value, digit| {
            let position = ALPHABET.iter().position(|&ch| ch == digit).unwrap();
            value * 62 + u128::try_from(position).unwrap()
        });
        assert_eq!(value, number);
    }
}
