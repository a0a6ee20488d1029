/** Numbers as text for people: three digits, with a prefix or a unit. */

/** What is shown where there is no number (NaN, infinite). */
const NO_NUMBER = '–';

const PREFIXES = ['', 'k', 'M', 'G', 'T'];

/** Three significant digits, never an exponent: 0.0042, 1.5, 12.3, 512, 48200. Whole numbers keep all their digits. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return NO_NUMBER;
  const size = Math.abs(value);
  if (Number.isInteger(value) || size >= 999.5) return Math.round(value).toString();
  if (size < 5e-5) return '0';
  const decimals = size >= 99.95 ? 0 : size >= 9.995 ? 1 : size >= 0.9995 ? 2 : size >= 0.09995 ? 3 : 4;
  return value.toFixed(decimals);
}

/** Three significant digits with a prefix: 6420000 → '6.42 M'. A rate of 0.5 stays '0.500'. */
export function si(value: number): string {
  if (!Number.isFinite(value)) return NO_NUMBER;
  let scaled = value;
  let prefix = 0;
  while (Math.abs(scaled) >= 999.5 && prefix < PREFIXES.length - 1) {
    scaled /= 1000;
    prefix++;
  }
  if (prefix === 0) return short(scaled);
  const size = Math.abs(scaled);
  return `${scaled.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2)} ${PREFIXES[prefix]}`;
}

/**
 * A share (0 … 1) in percent: 0.0123 → '1.23 %'. Rounding never turns some into none or almost all into all:
 * those read '<0.01 %' and '>99.99 %'.
 */
export function percent(share: number, decimals = 2): string {
  if (!Number.isFinite(share)) return NO_NUMBER;
  if (share === 0 || share === 1) return `${share * 100} %`;
  const step = 10 ** -decimals;
  const value = share * 100;
  if (value > 0 && value < step / 2) return `<${step.toFixed(decimals)} %`;
  if (value < 100 && value > 100 - step / 2) return `>${(100 - step).toFixed(decimals)} %`;
  return `${value.toFixed(decimals)} %`;
}

/** A number with that many decimals. */
export function fixed(value: number, decimals: number): string {
  return Number.isFinite(value) ? value.toFixed(decimals) : NO_NUMBER;
}

/** Milliseconds: 12.345 → '12.3 ms'. */
export function ms(valueMs: number): string {
  return `${short(valueMs)} ms`;
}

/** Microseconds: 12.345 → '12.3 µs'. */
export function us(valueUs: number): string {
  return `${short(valueUs)} µs`;
}
