/**
 * rubato/testing: for the tests of programs that use rubato. `createTestScheduler` in place of `createScheduler`, and
 * time stands still until `advance` (docs/testing.md).
 *
 * @module rubato/testing
 */
export { createTestScheduler, TestScheduler } from './testing/test-scheduler.js';
