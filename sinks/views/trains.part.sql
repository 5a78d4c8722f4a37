(phase = 'training' OR (run != '' AND phase = ''))
