/* Bodies that attract each other, in REAL; included once by each file that wants it, as NBODY(). */
uint64_t NBODY(unsigned scale)
{
    enum { BODIES = 5 };
    static const double start[BODIES][7] = {
        /* x, y, z, their velocities, mass: a heavy one and four that go around it */
        {0, 0, 0, 0, 0, 0, 40},
        {5, 1, 0.25, -0.5, 2.75, 0.125, 0.04},
        {-8, 3, -0.5, -0.75, -2, 0.25, 0.01},
        {2, -13, 0.75, 1.75, 0.25, -0.125, 0.002},
        {-15, -11, 1.5, 0.875, -1.125, 0.0625, 0.003}};
    REAL p[BODIES][3], v[BODIES][3], m[BODIES], dt = 1.0 / 128;
    for (int i = 0; i < BODIES; i++) {
        for (int k = 0; k < 3; k++) {
            p[i][k] = start[i][k];
            v[i][k] = start[i][3 + k];
        }
        m[i] = start[i][6];
    }
    uint64_t h = 0;
    for (unsigned n = 0; n < scale * 100; n++) {
        for (int i = 0; i < BODIES; i++)
            for (int j = i + 1; j < BODIES; j++) {
                REAL d[3], square = 0.01;
                for (int k = 0; k < 3; k++) {
                    d[k] = p[i][k] - p[j][k];
                    square += d[k] * d[k];
                }
                REAL root;
                if (sizeof(REAL) > sizeof(double))
                    root = __builtin_sqrtl(square);
                else
                    root = __builtin_sqrt((double)square);
                REAL pull = dt / (square * root);
                for (int k = 0; k < 3; k++) {
                    v[i][k] -= d[k] * m[j] * pull;
                    v[j][k] += d[k] * m[i] * pull;
                }
            }
        for (int i = 0; i < BODIES; i++)
            for (int k = 0; k < 3; k++)
                p[i][k] += dt * v[i][k];
        if (n % 100 == 99)
            for (int i = 0; i < BODIES; i++)
                h = mix_double(h, (double)p[i][0]);
    }
    return h;
}
