if(phase = '', run != '', phase = 'training')
