// Few rules, all errors: each catches a fault, none is about taste. What may import what is held by
// test/system/floors.test.ts, which also keeps promises, clocks and the event loop out of role code.
import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

/** Folders whose loops run per request. */
const HOT = ['src/ringbuf/**/*.ts', 'src/shards/**/*.ts', 'src/dispatch/**/*.ts', 'src/protocol/**/*.ts'];

const forEveryFile = {
  eqeqeq: 'error',
  'prefer-const': 'error',
  'no-var': 'error',
  'no-fallthrough': 'error',
  'no-unreachable-loop': 'error',
  'no-unsafe-finally': 'error',
  'no-restricted-syntax': ['error', { selector: 'ForInStatement', message: 'for…in also walks inherited keys: use Object.keys or an index.' }],
};

export default defineConfig(
  { ignores: ['dist/', 'build/', 'native/', 'node_modules/', 'src/protocol/wasm/', 'src/ringbuf/wasm/', 'src/shards/wasm/'] },
  { files: ['scripts/**/*.mjs', '*.js'], rules: { ...forEveryFile, 'no-unused-vars': 'error' } },
  {
    files: ['src/**/*.ts', 'test/**/*.ts', 'bench/**/*.ts'],
    extends: [tseslint.configs.base],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      ...forEveryFile,
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/no-floating-promises': ['error', {
        // The runner itself waits for these.
        allowForKnownSafeCalls: [{ from: 'package', package: 'node:test', name: ['test', 'it', 'describe', 'suite'] }],
      }],
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      '@typescript-eslint/only-throw-error': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
    },
  },
  {
    files: HOT,
    rules: {
      'no-restricted-syntax': [
        ...forEveryFile['no-restricted-syntax'],
        { selector: 'Literal[bigint]', message: 'BigInt allocates on every operation: use doubles or 32-bit words.' },
      ],
      'no-restricted-globals': ['error',
        { name: 'BigInt', message: 'BigInt allocates on every operation: use doubles or 32-bit words.' },
        { name: 'BigInt64Array', message: 'Its elements are BigInts, and plain stores to them may tear.' },
        { name: 'BigUint64Array', message: 'Its elements are BigInts, and plain stores to them may tear.' },
      ],
    },
  },
);
