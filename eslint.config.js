import { builtinModules } from 'node:module';
import prettier from 'eslint-config-prettier';
import tseslint from 'typescript-eslint';

const nodeBuiltins = builtinModules.flatMap((name) => [name, `node:${name}`]);

export default tseslint.config(
  { ignores: ['dist', 'node_modules'] },
  {
    files: ['**/*.ts'],
    extends: [...tseslint.configs.recommended],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
      'no-console': 'error',
      'object-shorthand': 'error',
      eqeqeq: 'error',
    },
  },
  {
    // The story is deterministic: no clock, no network, no file, only the workflow API and pure code.
    files: ['workflows/**/*.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          paths: nodeBuiltins.map((name) => ({ name, message: 'Workflow code must not use Node builtins.' })),
          patterns: [
            { group: ['@temporalio/activity', '@temporalio/client', '@temporalio/worker', '@temporalio/testing'] },
            { group: ['**/src/postgres/**', '**/src/router/**', '**/src/worker/**'], allowTypeImports: true },
          ],
        },
      ],
    },
  },
  {
    // A machine's clock can be set in the middle of a wait.
    files: ['src/postgres/**', 'src/pgbouncer/**', 'src/haproxy/**'],
    ignores: ['src/postgres/server-clock.ts'],
    rules: {
      'no-restricted-properties': [
        'error',
        { object: 'Date', property: 'now', message: 'Measure time by performance.now(), which nobody sets.' },
      ],
    },
  },
  {
    // What moves data and traffic is of use without Temporal.
    files: ['src/{plan,postgres,pgbouncer,haproxy,gates,router,flags,openfeature,webhooks,notify}/**'],
    rules: {
      'no-restricted-imports': [
        'error',
        { patterns: [{ group: ['**/workflows/**', '**/activities/**'], message: 'This part of src knows neither.' }] },
      ],
    },
  },
  { files: ['src/cli/**', 'src/embedded/**', 'bench/**'], rules: { 'no-console': 'off' } },
  prettier,
);
